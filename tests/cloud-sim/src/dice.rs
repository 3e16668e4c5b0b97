//! Everything the cloud invents: ids, keys, etags, generation ids. The same seed gives the same sequence.
//!
//! Not cryptographically strong: these keys guard a simulator.

use crate::keys::Key;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A seeded source of inventions, part of the state so that a restart goes on where it stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Dice {
    seed: u64,
    last_generation: u64,
}

impl Dice {
    /// A sequence that depends on `seed` alone.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Dice {
        Dice { seed, last_generation: FIRST_GENERATION }
    }

    /// A random version-4 UUID.
    pub(crate) fn uuid(&mut self) -> String {
        let n = (u128::from(self.roll()) << 64) | u128::from(self.roll());
        let (n, hex) = ((n & !VERSION_MASK) | VERSION_4, "0123456789abcdef");
        let digit = |i: u32| hex.as_bytes()[(n >> (124 - 4 * i) & 15) as usize] as char;
        let part = |from: u32, to: u32| (from..to).map(digit).collect::<String>();
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }

    /// `4.<16 hex digits>.<uuid>`, the shape of DPS operation ids.
    pub(crate) fn operation_id(&mut self) -> String {
        format!("4.{:016x}.{}", self.roll(), self.uuid())
    }

    /// A 64-byte key, as the service generates them.
    pub(crate) fn key(&mut self) -> Key {
        Key::new((0..8).flat_map(|_| self.roll().to_be_bytes()).collect())
    }

    /// Base64 of a decimal number, without the quotes it has in a header.
    pub(crate) fn etag(&mut self) -> String {
        STANDARD.encode((self.roll() % 1_000_000_000).to_string())
    }

    /// An 18-digit number greater than every one before it.
    pub(crate) fn generation_id(&mut self) -> String {
        self.last_generation += 1 + self.roll() % 1_000_000_000;
        self.last_generation.to_string()
    }

    /// A number in 0.0 .. 1.0, for faults that strike with a probability.
    pub(crate) fn chance(&mut self) -> f64 {
        f64::from(u32::try_from(self.roll() >> 32).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
    }

    fn roll(&mut self) -> u64 {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let rolled = rng.u64(..);
        self.seed = rng.get_seed();
        rolled
    }
}

const FIRST_GENERATION: u64 = 638_400_000_000_000_000;
const VERSION_MASK: u128 = 0xf000_c000_0000_0000_0000;
const VERSION_4: u128 = 0x4000_8000_0000_0000_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_sequence() {
        let draw = |seed| {
            let mut dice = Dice::new(seed);
            (dice.uuid(), dice.operation_id(), dice.key().to_base64(), dice.etag(), dice.generation_id())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn inventions_have_the_service_s_shapes() {
        let mut dice = Dice::new(1);
        let uuid = dice.uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        let generations: Vec<String> = (0..100).map(|_| dice.generation_id()).collect();
        assert!(generations.is_sorted() && generations[0].len() == 18);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&dice.chance())));
    }
}

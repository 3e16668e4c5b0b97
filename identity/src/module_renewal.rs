//! Which certificates of modules are to be made anew before their time is over, and which are being made: one at a time for each
//! module, and after a failure not for a while. Knows neither how they are made nor who has to know of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cert_renewal::{Policy, Validity};
use identity_api::config::AutoRenew;
use openssl::asn1::{Asn1Time, TimeDiff};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::x509::X509Ref;

/// The certificates of modules that are due, by the modules' names.
#[derive(Debug, Default)]
pub(crate) struct Renewals(Arc<Mutex<HashMap<String, Due>>>);

#[derive(Debug, Default)]
struct Due {
    is_under_way: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// A renewal under way. It has failed if it is dropped before it has [`succeeded`](Self::succeeded).
#[derive(Debug)]
pub(crate) struct UnderWay {
    due: Arc<Mutex<HashMap<String, Due>>>,
    id: String,
}

impl Renewals {
    /// Take up whether the certificate of the module `id`, which is `leaf`, is due.
    pub(crate) fn see(&self, id: &str, leaf: &X509Ref) {
        // What cannot be read is shown as it is.
        match is_due(leaf).unwrap_or_default() {
            true => drop(self.due().entry(id.to_owned()).or_default()),
            false => drop(self.due().remove(id)),
        }
    }

    /// A renewal of the certificate of the module `id`, if it is to begin at `now`.
    pub(crate) fn begin(&self, id: &str, now: Instant) -> Option<UnderWay> {
        let mut due = self.due();
        let found = due.get_mut(id)?;
        if found.is_under_way || found.not_before.is_some_and(|then| now < then) {
            return None;
        }
        found.is_under_way = true;
        Some(UnderWay { due: Arc::clone(&self.0), id: id.to_owned() })
    }

    fn due(&self) -> MutexGuard<'_, HashMap<String, Due>> {
        self.0.lock().expect("no panic while held")
    }
}

impl UnderWay {
    /// There is a new certificate.
    pub(crate) fn succeeded(self) {
        self.due.lock().expect("no panic while held").remove(&self.id);
    }

    fn failed(&self, now: Instant) {
        if let Some(found) = self.due.lock().expect("no panic while held").get_mut(&self.id) {
            found.is_under_way = false;
            found.failures = found.failures.saturating_add(1);
            let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(found.failures - 1));
            found.not_before = Some(now + doubled.min(LONGEST_PAUSE));
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.failed(Instant::now());
    }
}

/// Whether so much of its life is over that it is to be made anew: as much as with the device's, unless configured.
fn is_due(leaf: &X509Ref) -> Result<bool, ErrorStack> {
    let now = Asn1Time::days_from_now(0)?;
    let age = seconds(&leaf.not_before().diff(&now)?);
    let life = seconds(&leaf.not_before().diff(leaf.not_after())?);
    let digest = leaf.digest(MessageDigest::sha256())?;
    // Those that were made together are not due together.
    let chance = digest.iter().take(8).fold(0, |chance, byte| chance << 8 | u64::from(*byte));
    let of = Validity { not_before: 0, not_after: life };
    Ok(Policy::from(AutoRenew::default()).is_due(of, age, chance))
}

fn seconds(time: &TimeDiff) -> i64 {
    i64::from(time.days) * 86_400 + i64::from(time.secs)
}

const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

#[cfg(test)]
mod tests {
    use openssl::x509::X509;

    use super::*;

    /// A certificate that began so many seconds ago and ends in so many.
    fn certificate(ago: i64, left: i64) -> X509 {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let mut builder = X509::builder().unwrap();
        builder.set_not_before(&Asn1Time::from_unix(now - ago).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(now + left).unwrap()).unwrap();
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let key = openssl::pkey::PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn due_after_four_fifths_and_a_little() {
        for (ago, left, expected) in [
            (0, 1000, false),
            (790, 210, false),
            (815, 185, true),
            (1000, 1, true),
            (-10, 1000, false),
            (80_000_000, 1, true),
        ] {
            assert_eq!(is_due(&certificate(ago, left)).unwrap(), expected, "{ago} {left}");
        }
    }

    #[test]
    fn one_at_a_time_and_after_a_failure_not_for_a_while() {
        let (renewals, now) = (Renewals::default(), Instant::now());
        assert!(renewals.begin("m", now).is_none(), "nothing is due");
        renewals.see("m", &certificate(900, 100));
        let first = renewals.begin("m", now).unwrap();
        assert!(renewals.begin("m", now).is_none() && renewals.begin("other", now).is_none());
        drop(first);
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        renewals.see("m", &certificate(900, 100));
        assert!(renewals.begin("m", later(298)).is_none());
        drop(renewals.begin("m", later(300)).unwrap());
        assert!(renewals.begin("m", later(598)).is_none(), "the second pause is longer");
        renewals.begin("m", later(600)).unwrap().succeeded();
        assert!(renewals.begin("m", later(10_000)).is_none());
        renewals.see("m", &certificate(900, 100));
        assert!(renewals.begin("m", now).is_some());
        renewals.see("m", &certificate(0, 100));
        assert!(renewals.begin("m", later(10_000)).is_none(), "somebody else has renewed it");
    }
}

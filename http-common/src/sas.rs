//! SAS tokens of devices: their exact text, who may sign it, and the service's clock.
//!
//! The text is spec/identity-service.md chapter 15, byte for byte. This file does not know where the key is (a
//! [`Signer`] does), nor how a token travels.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// Computes HMAC-SHA256 with a device key that may be anywhere: in memory, in keyd, in a TPM.
pub trait Signer: Sync {
    /// The 32 bytes of HMAC-SHA256(device key, `message`).
    fn sign(&self, message: &[u8]) -> impl Future<Output = Result<Vec<u8>, SignError>> + Send;
}

/// The device key could not be used; the source says why.
#[derive(Debug, thiserror::Error)]
#[error("the device key could not sign")]
pub struct SignError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The audience of a DPS token, `<scope id>/registrations/<registration id>` in lower case.
pub fn dps_audience(scope_id: &str, registration_id: &str) -> String {
    format!("{scope_id}/registrations/{registration_id}").to_lowercase()
}

/// The audience of a hub token, `<hub>/devices/<device id>` in lower case. `hub` is the hub's own name, with its port
/// if it has one, also when the request goes to a gateway.
pub fn hub_audience(hub: &str, device_id: &str) -> String {
    format!("{hub}/devices/{device_id}").to_lowercase()
}

/// What a token covers: an audience, and for DPS the name of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// From [`dps_audience`] or [`hub_audience`].
    pub audience: String,
    /// `registration` for DPS, nothing for a hub.
    pub key_name: Option<&'static str>,
}

impl Scope {
    /// The scope of a DPS registration.
    pub fn dps(scope_id: &str, registration_id: &str) -> Self {
        Self { audience: dps_audience(scope_id, registration_id), key_name: Some("registration") }
    }

    /// The scope of a device at its hub, which covers its modules.
    pub fn hub(hub: &str, device_id: &str) -> Self {
        Self { audience: hub_audience(hub, device_id), key_name: None }
    }

    /// A token for this scope, signed by `signer`, that is valid until `expiry` (Unix seconds).
    pub async fn token<S: Signer>(&self, expiry: u64, signer: &S) -> Result<Zeroizing<String>, SignError> {
        let signature = signer.sign(self.to_sign(expiry).as_bytes()).await?;
        Ok(self.assemble(expiry, &signature))
    }

    /// The text that is signed: the encoded audience, a line feed, the expiry.
    pub fn to_sign(&self, expiry: u64) -> String {
        format!("{}\n{expiry}", utf8_percent_encode(&self.audience, RESOURCE))
    }

    /// The token text around a finished `signature`. The order of the fields is fixed.
    pub fn assemble(&self, expiry: u64, signature: &[u8]) -> Zeroizing<String> {
        let resource = utf8_percent_encode(&self.audience, RESOURCE);
        let signature = STANDARD.encode(signature);
        let signature = utf8_percent_encode(&signature, NON_ALPHANUMERIC);
        let name = self.key_name.map(|name| format!("&skn={name}")).unwrap_or_default();
        Zeroizing::new(format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}{name}"))
    }
}

/// A device key held in memory, for tools and tests; a daemon leaves its key in keyd.
pub struct SharedKey(Zeroizing<Vec<u8>>);

impl SharedKey {
    /// A key from its raw bytes.
    pub fn new(key: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(key.into()))
    }

    /// HMAC-SHA256(this key, `message`).
    pub fn hmac(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        hmac_sha256(&self.0, message).map_err(|err| SignError(Box::new(err)))
    }
}

impl Signer for SharedKey {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.hmac(message)
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let key = PKey::hmac(key)?;
    openssl::sign::Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(message)
}

/// The service's clock as far as we know it: the local clock, corrected by what the service's `Date` headers say.
///
/// One clock is shared by all clients of the cloud. Only a reply over authenticated TLS may teach it.
#[derive(Debug, Default)]
pub struct ServerClock {
    /// Seconds to add to the local clock.
    offset: AtomicI64,
}

impl ServerClock {
    /// Learn from a reply that came in at `local` time and carries `date`. What travel time can explain changes nothing.
    pub fn learn(&self, local: SystemTime, date: SystemTime) {
        let offset = unix_seconds(date).saturating_sub(unix_seconds(local));
        if offset.abs_diff(self.offset()) >= TRAVEL_SECONDS {
            self.offset.store(offset, Ordering::Relaxed);
        }
    }

    /// How many seconds the local clock is behind the service; negative if it is ahead; 0 if unknown or small.
    pub fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// When a token made at `local` time and valid for `life` expires, in Unix seconds of the service's clock.
    pub fn expiry(&self, local: SystemTime, life: Duration) -> u64 {
        let now = unix_seconds(local).saturating_add(self.offset());
        u64::try_from(now).unwrap_or(0).saturating_add(life.as_secs())
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -seconds(before.duration()), seconds)
}

/// Differences below this are travel time and rounding, not a wrong clock.
const TRAVEL_SECONDS: u64 = 30;

/// What is encoded in the audience; `/ % + : @ & $` and others stay raw.
const RESOURCE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'#')
    .add(b'?')
    .add(b'{')
    .add(b'}')
    .add(b'=');

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: u64 = 1_893_456_030;

    fn token(scope: &Scope) -> String {
        let key = SharedKey::new((0..32).collect::<Vec<u8>>());
        let signature = key.hmac(scope.to_sign(EXPIRY).as_bytes()).unwrap();
        scope.assemble(EXPIRY, &signature).to_string()
    }

    #[test]
    fn tokens_are_the_vectors_byte_for_byte() {
        assert_eq!(
            token(&Scope::dps("0ne00ABC123", "Pump=7 a")),
            "SharedAccessSignature sr=0ne00abc123/registrations/pump%3D7%20a\
             &sig=DjkJ2Zu%2BcDG9NWr4fMbIRjaDFL4yFewlRHjrZeR5Jdc%3D&se=1893456030&skn=registration"
        );
        assert_eq!(
            token(&Scope::hub("Contoso-Hub.azure-devices.net", "Pump-7")),
            "SharedAccessSignature sr=contoso-hub.azure-devices.net/devices/pump-7\
             &sig=oOniCXJhfa3Q06QTxXhPbZlUk8bJJarVrWwL%2F3Ffys0%3D&se=1893456030"
        );
    }

    #[test]
    fn the_audience_encodes_exactly_the_specified_set() {
        let raw = "/%+:@&$,;!*'()[]^|~-._aZ9\\";
        let scope = |audience: &str| Scope { audience: audience.into(), key_name: None };
        assert_eq!(scope(raw).to_sign(1), format!("{raw}\n1"));
        assert_eq!(
            scope("\u{1}\u{7f} \"<>`#?{}=é").to_sign(1),
            "%01%7F%20%22%3C%3E%60%23%3F%7B%7D%3D%C3%A9\n1"
        );
    }

    #[test]
    fn a_hub_with_a_port_keeps_it() {
        assert_eq!(hub_audience("LocalHost:9443", "Dév"), "localhost:9443/devices/dév");
    }

    #[test]
    fn the_clock_is_corrected_by_what_the_service_says() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let clock = ServerClock::default();
        let hour = Duration::from_secs(3600);
        assert_eq!(clock.expiry(at(1000), hour), 4600);
        clock.learn(at(1000), at(1007));
        assert_eq!(clock.expiry(at(1000), hour), 4600, "seven seconds are travel time");
        clock.learn(at(0), at(1_000_000));
        assert_eq!(clock.expiry(at(10), hour), 1_003_610, "a device without a battery-backed clock");
        clock.learn(at(5), at(1_000_006));
        assert_eq!(clock.offset(), 1_000_000, "learning nearly the same again changes nothing");
        clock.learn(at(1_000_000), at(500));
        assert_eq!(clock.offset(), -999_500);
    }

    #[test]
    fn times_before_1970_do_not_panic() {
        let clock = ServerClock::default();
        let old = UNIX_EPOCH - Duration::from_secs(100);
        assert_eq!(clock.expiry(old, Duration::from_secs(60)), 60);
    }
}

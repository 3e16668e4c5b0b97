//! How a device that belongs to a symmetric key group gets its own key.
//!
//! For operators' tools and tests; the device itself is given the derived key.

use http_common::sas::{SharedKey, SignError};

/// The key of the device `registration_id` in a group: HMAC-SHA256(`group_key`, `registration_id`). `group_key` is the
/// decoded primary or secondary key of the enrolment group. DPS keeps registration ids in lower case; the id is taken
/// here as it is written.
pub fn derive_device_key(group_key: &[u8], registration_id: &str) -> Result<Vec<u8>, SignError> {
    SharedKey::new(group_key).hmac(registration_id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn the_group_vector() {
        let group_key: Vec<u8> = (0..64).collect();
        let key = derive_device_key(&group_key, "line-4-robot-2").unwrap();
        assert_eq!(STANDARD.encode(key), "vYR2LyFC4hdqR+zMelJHggbzbOktExGnNFaEGjcA4ZU=");
    }
}

//! The templates of the endorsement key and the storage root key, byte for byte (spec tpm-service, 4.2 and 4.3). Another
//! byte makes another key, and another key is another device for DPS.

/// The endorsement key: the default RSA-2048 template of the TCG (EK Credential Profile 2.0, template L-1), as a
/// `TPM2B_PUBLIC`.
pub(crate) const ENDORSEMENT_KEY: [u8; 316] = with_unique([
    0x01, 0x3A, // size
    0x00, 0x01, 0x00, 0x0B, // RSA, SHA-256
    0x00, 0x03, 0x00,
    0xB2, // fixedTPM fixedParent sensitiveDataOrigin adminWithPolicy restricted decrypt
    0x00, 0x20, // policy: PolicySecret with the endorsement hierarchy
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xB3, 0xF8, 0x1A, 0x90, 0xCC, 0x8D, 0x46, 0xA5, 0xD7, 0x24, //
    0xFD, 0x52, 0xD7, 0x6E, 0x06, 0x52, 0x0B, 0x64, 0xF2, 0xA1, 0xDA, 0x1B, 0x33, 0x14, 0x69, 0xAA, //
    0x00, 0x06, 0x00, 0x80, 0x00, 0x43, // AES-128-CFB
    0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, // no scheme, 2048 bits, default exponent
    0x01, 0x00, // unique: 256 zeros
]);

/// The storage root key, as a `TPM2B_PUBLIC`.
pub(crate) const STORAGE_ROOT_KEY: [u8; 284] = with_unique([
    0x01, 0x1A, // size
    0x00, 0x01, 0x00, 0x0B, // RSA, SHA-256
    0x00, 0x03, 0x04,
    0x72, // fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted decrypt
    0x00, 0x00, // no policy
    0x00, 0x06, 0x00, 0x80, 0x00, 0x43, // AES-128-CFB
    0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, // no scheme, 2048 bits, default exponent
    0x01, 0x00, // unique: 256 zeros
]);

/// How a public area begins that was made from `template`: all but `unique`.
pub(crate) fn fixed_part(template: &[u8]) -> &[u8] {
    template.len().checked_sub(UNIQUE).and_then(|length| template.get(..length)).unwrap_or_default()
}

const fn with_unique<const FIXED: usize, const ALL: usize>(fixed: [u8; FIXED]) -> [u8; ALL] {
    assert!(ALL == FIXED + UNIQUE, "a template ends in an empty modulus");
    let mut template = [0; ALL];
    let mut at = 0;
    while at < FIXED {
        template[at] = fixed[at];
        at += 1;
    }
    template
}

/// The length of an RSA-2048 modulus, in bytes.
const UNIQUE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_the_length_they_say() {
        for template in [&ENDORSEMENT_KEY[..], &STORAGE_ROOT_KEY] {
            let size = usize::from(u16::from_be_bytes([template[0], template[1]]));
            assert_eq!(size + 2, template.len());
            assert!(fixed_part(template).ends_with(&[0, 0, 1, 0]));
            assert!(template[fixed_part(template).len()..].iter().all(|byte| *byte == 0));
        }
    }
}

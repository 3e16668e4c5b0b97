//! The two keys that are made from seeds of the TPM: where they are, and their templates, byte for byte (spec tpm-service,
//! 4.1 to 4.3). Another byte makes another key, and another key is another device for DPS.

/// A key that is made from the seed of a hierarchy.
pub struct Primary {
    /// In words.
    pub name: &'static str,
    /// Where it is kept.
    pub handle: u32,
    /// Whose seed it is made from.
    pub hierarchy: Hierarchy,
    /// A `TPM2B_PUBLIC` that ends in an empty modulus.
    pub template: &'static [u8],
}

impl Primary {
    /// Whether a `TPMT_PUBLIC` was made from the template.
    pub fn fits(&self, public: &[u8]) -> bool {
        let fixed = self.template.len().checked_sub(UNIQUE).and_then(|end| self.template.get(2..end));
        public.len() + 2 == self.template.len() && fixed.is_some_and(|fixed| public.starts_with(fixed))
    }
}

/// Whose seed it is.
#[derive(Debug, Clone, Copy)]
pub enum Hierarchy {
    /// The endorsement hierarchy.
    Endorsement,
    /// The owner's, or storage, hierarchy.
    Owner,
}

impl Hierarchy {
    /// Its permanent handle.
    pub fn handle(self) -> u32 {
        match self {
            Self::Endorsement => 0x4000_000B,
            Self::Owner => 0x4000_0001,
        }
    }

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Endorsement => "endorsement",
            Self::Owner => "owner",
        }
    }
}

/// The endorsement key.
pub const ENDORSEMENT: Primary = Primary {
    name: "endorsement key",
    handle: 0x8101_0001,
    hierarchy: Hierarchy::Endorsement,
    template: &ENDORSEMENT_TEMPLATE,
};

/// The storage root key.
pub const STORAGE_ROOT: Primary = Primary {
    name: "storage root key",
    handle: 0x8100_0001,
    hierarchy: Hierarchy::Owner,
    template: &STORAGE_ROOT_TEMPLATE,
};

/// The endorsement key: the default RSA-2048 template of the TCG (EK Credential Profile 2.0, template L-1), as a
/// `TPM2B_PUBLIC`.
const ENDORSEMENT_TEMPLATE: [u8; 316] = with_unique([
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
const STORAGE_ROOT_TEMPLATE: [u8; 284] = with_unique([
    0x01, 0x1A, // size
    0x00, 0x01, 0x00, 0x0B, // RSA, SHA-256
    0x00, 0x03, 0x04,
    0x72, // fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted decrypt
    0x00, 0x00, // no policy
    0x00, 0x06, 0x00, 0x80, 0x00, 0x43, // AES-128-CFB
    0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, // no scheme, 2048 bits, default exponent
    0x01, 0x00, // unique: 256 zeros
]);

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
        for template in [&ENDORSEMENT_TEMPLATE[..], &STORAGE_ROOT_TEMPLATE] {
            let size = usize::from(u16::from_be_bytes([template[0], template[1]]));
            assert_eq!(size + 2, template.len());
            assert!(template[template.len() - UNIQUE..].iter().all(|byte| *byte == 0));
        }
    }
}

//! What is known of a key pair in keyd besides its name: its public part. Does not know who asked for it.

/// The public part of a key pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// On a curve that OpenSSL and TLS know by name.
    Ec {
        /// Which curve.
        curve: Curve,
        /// The compressed point (SEC 1, 2.3.3).
        point: Vec<u8>,
    },
    /// RSA; both unsigned, big-endian, without leading zeros.
    Rsa {
        /// n.
        modulus: Vec<u8>,
        /// e.
        exponent: Vec<u8>,
    },
}

/// A curve of NIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// secp521r1.
    P521,
}

impl Curve {
    /// Bytes of the order of the base point: the longest digest that is signed whole.
    pub fn order_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Its name in OpenSSL.
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "prime256v1",
            Self::P384 => "secp384r1",
            Self::P521 => "secp521r1",
        }
    }

    /// The one whose object identifier in DER is `der`.
    pub(crate) fn from_oid(der: &[u8]) -> Option<Self> {
        match der {
            b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" => Some(Self::P256),
            b"\x06\x05\x2b\x81\x04\x00\x22" => Some(Self::P384),
            b"\x06\x05\x2b\x81\x04\x00\x23" => Some(Self::P521),
            _ => None,
        }
    }
}

//! keyd's keys as OpenSSL's: the private ones stay there. Knows no certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use key_api::KeyHandle;
use key_engine::remote::{Curve, Keyd, PublicKey, RemoteKey};
use key_engine::{Error, KeyEngine, KeyName};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private, Public};
use openssl::rsa::Rsa;

use crate::keys::{BoxedError, PrivateKeys};

/// The keys of one keyd.
pub(crate) struct Engine {
    engine: KeyEngine,
    keyd: Arc<Keyd>,
}

impl Engine {
    /// For the keyd that listens at `socket`. Asks nobody.
    pub(crate) fn new(socket: &Path) -> Result<Self, Error> {
        Ok(Self { engine: KeyEngine::new(socket, LIMIT)?, keyd: Arc::new(Keyd::new(socket, LIMIT)) })
    }
}

impl PrivateKeys for Engine {
    fn private_key(&self, handle: &KeyHandle) -> Result<PKey<Private>, BoxedError> {
        Ok(self.engine.private_key(handle.as_str())?)
    }

    fn public_key(&self, handle: &KeyHandle) -> Result<PKey<Public>, BoxedError> {
        let name = KeyName::Handle(handle.as_str().to_owned().into());
        Ok(native(RemoteKey::load(Arc::clone(&self.keyd), name)?.public())?)
    }
}

fn native(key: &PublicKey) -> Result<PKey<Public>, ErrorStack> {
    match key {
        PublicKey::Ec { curve, point } => {
            let group = EcGroup::from_curve_name(match curve {
                Curve::P256 => Nid::X9_62_PRIME256V1,
                Curve::P384 => Nid::SECP384R1,
                Curve::P521 => Nid::SECP521R1,
            })?;
            let point = EcPoint::from_bytes(&group, point, &mut *BigNumContext::new()?)?;
            PKey::from_ec_key(EcKey::from_public_key(&group, &point)?)
        }
        PublicKey::Rsa { modulus, exponent } => {
            let (modulus, exponent) = (BigNum::from_slice(modulus)?, BigNum::from_slice(exponent)?);
            PKey::from_rsa(Rsa::from_public_components(modulus, exponent)?)
        }
    }
}

/// How long keyd may take for one operation with a key.
const LIMIT: Duration = Duration::from_secs(20);

//! Key pairs that a token makes (spec keys-service, 9.4, 10.4). Does not know what is on the token already.

use std::thread;
use std::time::Duration;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use key_api::ObjectName;

use super::fault::{Fault, Remedy};
use super::objects::{attributes, destroy};
use super::token::Call;
use crate::algorithm::Algorithm;
use crate::store::{P256, P384};

/// What comes of the wish for a key pair.
pub(super) enum Made {
    /// There is one.
    Pair,
    /// The token makes none of this kind: what it says to that.
    None(Fault),
}

/// Makes a key pair by `algorithm`. In a bad moment it is tried again, which is no reason for a key of another kind.
pub(super) fn generate_pair(call: &Call<'_>, name: &ObjectName, algorithm: Algorithm) -> Result<Made, Fault> {
    let fault = match patiently(|| generate(call.session, name, algorithm)) {
        Ok(halves) => {
            if let Err(fault) = call.goes_on() {
                // Who has begun anew must not find two pairs of one name.
                halves.map(|half| destroy(call.session, half)).into_iter().collect::<Result<(), _>>()?;
                return Err(fault);
            }
            return Ok(Made::Pair);
        }
        Err(fault) => fault,
    };
    tracing::info!("the token makes no key pair by {algorithm:?}: {fault}");
    if fault.remedy() == Remedy::Ask {
        // If it is for the session, another one may do better.
        call.session.get_session_info().map_err(Fault::said("tell about a session"))?;
    } else if fault.is_outage() {
        return Err(fault);
    }
    Ok(Made::None(fault))
}

/// Makes a key pair: its private and its public half.
fn generate(session: &Session, name: &ObjectName, algorithm: Algorithm) -> Result<[ObjectHandle; 2], Fault> {
    let (mechanism, mut public) = match algorithm {
        Algorithm::EcP256 => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P256.to_vec())]),
        Algorithm::EcP384 => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P384.to_vec())]),
        Algorithm::Rsa(bits) => (
            Mechanism::RsaPkcsKeyPairGen,
            vec![
                Attribute::ModulusBits(u64::from(bits).into()),
                Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
            ],
        ),
    };
    public.extend([
        Attribute::Encrypt(true),
        Attribute::Private(false),
        Attribute::Token(true),
        Attribute::Verify(true),
    ]);
    public.extend(attributes(name));
    let mut private = vec![
        Attribute::Decrypt(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Sign(true),
        Attribute::Token(true),
    ];
    private.extend(attributes(name));
    let made = session.generate_key_pair(&mechanism, &public, &private);
    made.map(|(public, private)| [private, public]).map_err(Fault::said("generate a key pair"))
}

/// What `attempt` comes to, after some more of them if it fails for the moment.
fn patiently<T>(attempt: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
    for pause in PAUSES {
        match attempt() {
            Err(fault) if fault.is_of_the_moment() => thread::sleep(pause),
            result => return result,
        }
    }
    attempt()
}

const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];
/// 65537, as upstream writes it.
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use cryptoki::context::Function;
    use cryptoki::error::{Error, RvError};

    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (answer, attempts) in [
            (RvError::GeneralError, 3),
            (RvError::FunctionFailed, 3),
            (RvError::DeviceMemory, 3),
            (RvError::HostMemory, 3),
            (RvError::MechanismInvalid, 1),
            (RvError::CurveNotSupported, 1),
            (RvError::DomainParamsInvalid, 1),
            (RvError::KeySizeRange, 1),
            (RvError::AttributeValueInvalid, 1),
            (RvError::DeviceRemoved, 1),
        ] {
            let made = Cell::new(0);
            let in_vain = patiently(|| -> Result<(), Fault> {
                made.set(made.get() + 1);
                Err(Fault::said("generate a key pair")(Error::Pkcs11(answer, Function::GenerateKeyPair)))
            });
            assert!(in_vain.is_err() && made.get() == attempts, "{answer:?}: {}", made.get());
        }
    }
}

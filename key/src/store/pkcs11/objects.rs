//! The objects on a token that make a key: looked up, generated, imported, relabelled, destroyed (spec keys-service,
//! 10.4). Uses no key, and knows neither threads nor ids.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use key_api::{KeyUsage, ObjectName};

use super::fault::Fault;
use super::token::Call;
use super::use_key;
use crate::algorithm::Algorithm;
use crate::store::{P256, P384};

/// The halves of a key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halves {
    /// The public key object.
    pub(super) public: ObjectHandle,
    /// The private key object.
    pub(super) private: ObjectHandle,
}

/// What became of a symmetric key that was to be put on a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is there, and works.
    Yes,
    /// The token cannot keep or use such a key.
    No,
}

/// What a symmetric key on a token is for; one object cannot be both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// HMAC-SHA256, which also derives.
    Mac,
    /// AES-GCM.
    Cipher,
}

impl Purpose {
    /// The one purpose of a usage, if it has one (9.2).
    pub(super) fn of(usage: KeyUsage) -> Option<Self> {
        match (usage.encrypts(), usage.signs() || usage.derives()) {
            (true, false) => Some(Self::Cipher),
            (false, _) => Some(Self::Mac),
            (true, true) => None,
        }
    }
}

/// The first object of a class with this name.
pub(super) fn find(
    session: &Session,
    class: ObjectClass,
    name: &ObjectName,
) -> Result<Option<ObjectHandle>, Fault> {
    let mut template = vec![Attribute::Class(class), Attribute::Token(true)];
    template.extend(attributes(name));
    let found = session.find_objects(&template).map_err(Fault::said("find an object"))?;
    Ok(found.into_iter().next())
}

/// The symmetric key of this name. A fault if the token may hide one.
pub(super) fn find_key(call: &Call<'_>, name: &ObjectName) -> Result<Option<ObjectHandle>, Fault> {
    match find(call.session, ObjectClass::SECRET_KEY, name)? {
        Some(key) => Ok(Some(key)),
        None => call.sees_all().map(|()| None),
    }
}

/// The halves of this name that there are: public, private.
pub(super) fn find_halves(
    session: &Session,
    name: &ObjectName,
) -> Result<(Option<ObjectHandle>, Option<ObjectHandle>), Fault> {
    Ok((find(session, ObjectClass::PUBLIC_KEY, name)?, find(session, ObjectClass::PRIVATE_KEY, name)?))
}

/// Makes a symmetric key unless there is one of this name.
pub(super) fn generate_key(call: &Call<'_>, name: &ObjectName, purpose: Purpose) -> Result<Kept, Fault> {
    if find_key(call, name)?.is_some() {
        return Ok(Kept::Yes);
    }
    let session = call.session;
    let generate = |mechanism, key_type, length: u64| {
        let mut template = secret_template(name, purpose, key_type);
        template.extend([Attribute::Verify(true), Attribute::ValueLen(length.into())]);
        session.generate_key(&mechanism, &template).map_err(Fault::said("generate a key"))
    };
    let generated = match purpose {
        Purpose::Mac => generate(Mechanism::GenericSecretKeyGen, KeyType::GENERIC_SECRET, 32),
        Purpose::Cipher => generate(Mechanism::AesKeyGen, KeyType::AES, 32)
            .or_else(|_| generate(Mechanism::AesKeyGen, KeyType::AES, 16)),
    };
    match generated {
        Ok(key) => {
            call.goes_on().or_else(|fault| destroy(session, key).and(Err(fault)))?;
            keep_if_it_works(session, key, purpose)
        }
        Err(fault) if fault.is_unsupported() => Ok(Kept::No),
        Err(fault) => Err(fault),
    }
}

/// Puts the bytes of a symmetric key in the place of the one that may be there. The old one goes only when the new one
/// works; if the token does not take the new one, the old one stays.
pub(super) fn import_key(
    call: &Call<'_>,
    name: &ObjectName,
    purpose: Purpose,
    bytes: &[u8],
) -> Result<Kept, Fault> {
    call.sees_all()?;
    let (session, old) = (call.session, find_key(call, name)?);
    let key_type = match purpose {
        Purpose::Mac => KeyType::GENERIC_SECRET,
        Purpose::Cipher => KeyType::AES,
    };
    let mut template = secret_template(name, purpose, key_type);
    template.extend([Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Value(bytes.to_vec())]);
    if purpose == Purpose::Mac {
        template.push(Attribute::Verify(true));
    }
    let created = session.create_object(&template).map_err(Fault::said("take a key"));
    wipe(&mut template);
    let kept = match created {
        Ok(key) => {
            call.goes_on().or_else(|fault| destroy(session, key).and(Err(fault)))?;
            keep_if_it_works(session, key, purpose)?
        }
        Err(fault) if fault.is_outage() => return Err(fault),
        Err(fault) => {
            tracing::debug!("an import goes elsewhere: {fault}");
            Kept::No
        }
    };
    if let (Kept::Yes, Some(old)) = (kept, old) {
        destroy(session, old)?;
    }
    Ok(kept)
}

/// Destroys the symmetric key of this name; it may be missing.
pub(super) fn destroy_key(call: &Call<'_>, name: &ObjectName) -> Result<(), Fault> {
    call.sees_all()?;
    find_key(call, name)?.map_or(Ok(()), |key| destroy(call.session, key))
}

/// Makes a key pair by the first algorithm that the token can; `None` if it can none of them.
pub(super) fn generate_pair(
    call: &Call<'_>,
    name: &ObjectName,
    algorithms: &[Algorithm],
) -> Result<Option<Halves>, Fault> {
    for algorithm in algorithms {
        let (mechanism, kind) = match algorithm {
            Algorithm::EcP256 => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P256.to_vec())]),
            Algorithm::EcP384 => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P384.to_vec())]),
            Algorithm::Rsa(bits) => (
                Mechanism::RsaPkcsKeyPairGen,
                vec![
                    Attribute::ModulusBits(u64::from(*bits).into()),
                    Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
                ],
            ),
        };
        let mut public = kind;
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
        match call.session.generate_key_pair(&mechanism, &public, &private) {
            Ok((public, private)) => {
                if let Err(fault) = call.goes_on() {
                    // Who has begun anew must not find two pairs of one name.
                    [private, public]
                        .map(|half| destroy(call.session, half))
                        .into_iter()
                        .collect::<Result<(), _>>()?;
                    return Err(fault);
                }
                return Ok(Some(Halves { public, private }));
            }
            Err(error) => {
                let fault = Fault::said("generate a key pair")(error);
                if fault.is_outage() {
                    return Err(fault);
                }
                tracing::info!("the token makes no key pair by {algorithm:?}: {fault}");
            }
        }
    }
    Ok(None)
}

/// Gives an object another label.
pub(super) fn relabel(session: &Session, object: ObjectHandle, label: &[u8]) -> Result<(), Fault> {
    let label = [Attribute::Label(label.to_vec())];
    session.update_attributes(object, &label).map_err(Fault::said("relabel an object"))
}

/// Destroys an object; it may be gone already.
pub(super) fn destroy(session: &Session, object: ObjectHandle) -> Result<(), Fault> {
    match session.destroy_object(object).map_err(Fault::said("destroy an object")) {
        Err(fault) if !fault.is_stale_handle() => Err(fault),
        _ => Ok(()),
    }
}

/// Probes a new key by using it: a token may claim what it cannot do.
fn keep_if_it_works(session: &Session, key: ObjectHandle, purpose: Purpose) -> Result<Kept, Fault> {
    let fault = match use_key::try_out(session, key, purpose) {
        Ok(()) => return Ok(Kept::Yes),
        Err(fault) => fault,
    };
    destroy(session, key)?;
    match fault.is_outage() {
        true => Err(fault),
        false => {
            tracing::debug!("a key on the token does not work: {fault}");
            Ok(Kept::No)
        }
    }
}

fn secret_template(name: &ObjectName, purpose: Purpose, key_type: KeyType) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::KeyType(key_type),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Token(true),
    ];
    match purpose {
        Purpose::Mac => template.push(Attribute::Sign(true)),
        Purpose::Cipher => template.extend([Attribute::Encrypt(true), Attribute::Decrypt(true)]),
    }
    template.extend(attributes(name));
    template
}

fn attributes(name: &ObjectName) -> impl Iterator<Item = Attribute> {
    let label = name.label.clone().map(Attribute::Label);
    label.into_iter().chain(name.id.clone().map(Attribute::Id))
}

/// Leaves no copy of an imported key behind.
fn wipe(template: &mut [Attribute]) {
    for attribute in template {
        if let Attribute::Value(bytes) = attribute {
            zeroize::Zeroize::zeroize(bytes);
        }
    }
}

/// 65537, as upstream writes it.
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_on_a_token_has_one_purpose() {
        let check = |usage: &str, purpose| {
            assert_eq!(Purpose::of(usage.parse().unwrap()), purpose, "{usage}");
        };
        check("sign", Some(Purpose::Mac));
        check("derive", Some(Purpose::Mac));
        check("sign,derive", Some(Purpose::Mac));
        check("encrypt", Some(Purpose::Cipher));
        check("sign,encrypt", None);
        check("encrypt,derive", None);
    }
}

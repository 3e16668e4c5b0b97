//! Objects on a token: looked up, relabelled, destroyed; and those that are symmetric keys: generated, imported (spec
//! keys-service, 10.4). Uses no key, and knows neither threads nor ids.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use key_api::{KeyUsage, ObjectName};

use super::fault::Fault;
use super::token::Call;
use super::use_key;

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

/// The objects of a class with this name.
pub(super) fn find(
    session: &Session,
    class: ObjectClass,
    name: &ObjectName,
) -> Result<Vec<ObjectHandle>, Fault> {
    let mut template = vec![Attribute::Class(class), Attribute::Token(true)];
    template.extend(attributes(name));
    session.find_objects(&template).map_err(Fault::said("find an object"))
}

/// The symmetric key of this name. A fault if the token may hide one.
pub(super) fn find_key(call: &Call<'_>, name: &ObjectName) -> Result<Option<ObjectHandle>, Fault> {
    match find(call.session, ObjectClass::SECRET_KEY, name)?.first() {
        Some(key) => Ok(Some(*key)),
        None => call.sees_all().map(|()| None),
    }
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

/// What a template says of a name.
pub(super) fn attributes(name: &ObjectName) -> impl Iterator<Item = Attribute> {
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

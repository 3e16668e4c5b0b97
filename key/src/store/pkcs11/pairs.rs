//! Key pairs on a token as two objects of one label: found, made, moved, destroyed, and put right after a crash amid a
//! move (spec keys-service, 9.4, 9.8, 9.9). Uses no key.
//!
//! A move parks the pair that it replaces under another label and destroys it last. Whoever looks for a pair and finds
//! half of it, or nothing, while there is a parked one, puts the parked one back.

use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki::object::{ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use key_api::ObjectName;

use super::fault::Fault;
use super::objects::{self, Halves, destroy, find, find_halves, relabel};
use super::token::Call;
use crate::algorithm::Algorithm;

/// The pair of this name. A fault if the token may hide the private half.
pub(super) fn find_pair(call: &Call<'_>, name: &ObjectName) -> Result<Option<Halves>, Fault> {
    match find_halves(call.session, name)? {
        (Some(public), Some(private)) => Ok(Some(Halves { public, private })),
        (public, private) => {
            call.sees_all()?;
            put_back(call.session, name, public, private)
        }
    }
}

/// Makes a pair unless there is one; whether there is one then. Half a pair makes room, but only when there is a new one:
/// a private key is kept under another label, and a public key, which is of no use alone, goes.
pub(super) fn make_pair(call: &Call<'_>, name: &ObjectName, algorithms: &[Algorithm]) -> Result<bool, Fault> {
    if find_pair(call, name)?.is_some() {
        return Ok(true);
    }
    let session = call.session;
    let (public, private) = find_halves(session, name)?;
    let half = private.or(public);
    if let Some(half) = half {
        relabel(session, half, &corrupt(name)?)?;
    }
    let made = objects::generate_pair(call, name, algorithms);
    match (half, &made) {
        (None, _) => {}
        (Some(half), Ok(Some(_))) if private.is_none() => {
            if let Err(fault) = destroy(session, half) {
                tracing::warn!("half a key pair is left on the token: {fault}");
            }
        }
        (Some(_), Ok(Some(_))) => tell_aside(name),
        (Some(half), Ok(None) | Err(_)) => {
            if let Err(fault) = relabel(session, half, name.label.as_deref().unwrap_or_default()) {
                tracing::warn!("half the key pair {} has another label now: {fault}", shown(name));
            }
        }
    }
    Ok(made?.is_some())
}

/// Destroys what there is of a pair.
pub(super) fn destroy_pair(call: &Call<'_>, name: &ObjectName) -> Result<(), Fault> {
    call.sees_all()?;
    let session = call.session;
    for name in [Some(name.clone()), parked(name)].into_iter().flatten() {
        let (public, private) = find_halves(session, &name)?;
        call.goes_on()?;
        [private, public].into_iter().flatten().try_for_each(|half| destroy(session, half))?;
    }
    Ok(())
}

/// Gives the pair `from` the label of `to`, whose pair is destroyed when all else is done. Without a pair `from` the fault
/// is that there is no object, and nothing has been done. `has_begun` is false at first, and is kept by the caller over
/// repetitions after a fault of the session.
pub(super) fn move_pair(
    call: &Call<'_>,
    from: &ObjectName,
    to: &ObjectName,
    has_begun: &AtomicBool,
) -> Result<(), Fault> {
    let (Some(from_label), Some(to_label), Some(aside)) = (&from.label, &to.label, parked(to)) else {
        return Err(Fault::Unusable("a key pair without a label cannot be moved"));
    };
    call.sees_all()?;
    let session = call.session;
    let aside_label = aside.label.clone().unwrap_or_default();
    if has_begun.load(Ordering::Relaxed) && finish(session, from, to)? {
        return clear(session, &aside);
    }
    let source = find_pair(call, from)?.ok_or(Fault::NoObject)?;
    // What is parked for a whole pair is left of a move that was done but for the end.
    if find_pair(call, to)?.is_some() {
        clear(session, &aside)?;
    }
    has_begun.store(true, Ordering::Relaxed);
    let (old_public, old_private) = find_halves(session, to)?;
    let parking = [old_private, old_public].into_iter().flatten();
    let parking = parking.map(|half| (half, to_label.as_slice(), aside_label.as_slice()));
    let halves = [source.public, source.private];
    let moving = halves.map(|half| (half, from_label.as_slice(), to_label.as_slice()));
    relabel_all(call, &parking.chain(moving).collect::<Vec<_>>())?;
    call.goes_on()?;
    if let Err(fault) = clear(session, &aside) {
        tracing::warn!("a replaced key pair is left on the token: {fault}");
    }
    Ok(())
}

/// Gives each object another label, or all their old ones. If nobody waits for it any longer it is left as a crash would.
fn relabel_all(call: &Call<'_>, steps: &[(ObjectHandle, &[u8], &[u8])]) -> Result<(), Fault> {
    let session = call.session;
    for (done, (object, _, new)) in steps.iter().enumerate() {
        call.goes_on()?;
        if let Err(fault) = relabel(session, *object, new) {
            for (object, old, _) in steps[..done].iter().rev() {
                if let Err(fault) = relabel(session, *object, old) {
                    tracing::warn!("a failed move of a key pair cannot be undone yet: {fault}");
                }
            }
            return Err(fault);
        }
    }
    Ok(())
}

/// Does the rest of a move that was interrupted after its public half had moved; whether there was one.
fn finish(session: &Session, from: &ObjectName, to: &ObjectName) -> Result<bool, Fault> {
    match (find_halves(session, from)?, find_halves(session, to)?) {
        ((None, None), (Some(_), Some(_))) => Ok(true),
        ((None, Some(private)), (Some(_), None)) => {
            relabel(session, private, to.label.as_deref().unwrap_or_default())?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Puts a parked pair back in the place of the halves that there are, which are none or one.
fn put_back(
    session: &Session,
    name: &ObjectName,
    public: Option<ObjectHandle>,
    private: Option<ObjectHandle>,
) -> Result<Option<Halves>, Fault> {
    let (Some(label), Some(aside)) = (&name.label, parked(name)) else { return Ok(None) };
    let (parked_public, parked_private) = find_halves(session, &aside)?;
    if parked_public.is_none() && parked_private.is_none() {
        return Ok(None);
    }
    tracing::warn!("a move to the key pair {} was interrupted; the old one is put back", shown(name));
    for (present, parked) in [(private, parked_private), (public, parked_public)] {
        if let Some(parked) = parked {
            if let Some(stray) = present {
                set_aside(session, name, stray)?;
            }
            relabel(session, parked, label)?;
        }
    }
    match find_halves(session, name)? {
        (Some(public), Some(private)) => Ok(Some(Halves { public, private })),
        _ => Ok(None),
    }
}

/// Keeps half a pair under a label where nobody looks for it.
fn set_aside(session: &Session, name: &ObjectName, half: ObjectHandle) -> Result<(), Fault> {
    relabel(session, half, &corrupt(name)?)?;
    tell_aside(name);
    Ok(())
}

fn tell_aside(name: &ObjectName) {
    let label = corrupt(name).unwrap_or_default();
    let label = String::from_utf8_lossy(&label);
    tracing::error!(
        "the key pair {} was incomplete; the half of it is kept with the label {label}",
        shown(name)
    );
}

/// The label of half a pair that is in the way.
fn corrupt(name: &ObjectName) -> Result<Vec<u8>, Fault> {
    let label =
        name.label.as_deref().ok_or(Fault::Unusable("half a key pair, without a label, is in the way"))?;
    Ok([label, CORRUPT].concat())
}

fn clear(session: &Session, name: &ObjectName) -> Result<(), Fault> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        if let Some(object) = find(session, class, name)? {
            destroy(session, object)?;
        }
    }
    Ok(())
}

/// The name of a pair that is about to be replaced.
fn parked(name: &ObjectName) -> Option<ObjectName> {
    let label = [PARKED, name.label.as_deref()?].concat();
    Some(ObjectName { label: Some(label), id: None })
}

fn shown(name: &ObjectName) -> String {
    format!("{:?}", String::from_utf8_lossy(name.label.as_deref().unwrap_or_default()))
}

const PARKED: &[u8] = b"aziot-replaced:";
/// As of key files.
const CORRUPT: &[u8] = b".corrupt";

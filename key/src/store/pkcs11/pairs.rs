//! Key pairs on a token as two objects of one label: found, made, moved, destroyed, and put right after a crash amid a
//! move (spec keys-service, 9.4, 9.8, 9.9). Uses no key.
//!
//! A move parks the pair that it replaces under another label and destroys it last. Whoever looks for a pair and finds
//! half of it, or nothing, while there is a parked one, puts the parked one back, once nobody else is at work.

use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use key_api::ObjectName;

use super::fault::Fault;
use super::generate::{Made, generate_pair};
use super::halves::{Halves, Parts};
use super::objects::{destroy, relabel};
use super::token::Call;
use crate::algorithm::Algorithm;

/// How a pair is looked for.
pub(super) type Find = fn(&Call<'_>, &ObjectName) -> Result<Option<Halves>, Fault>;

/// The pair of this name, if it is not a case for [`settle_pair`]. A fault if the token may hide the private half.
pub(super) fn find_pair(call: &Call<'_>, name: &ObjectName) -> Result<Option<Halves>, Fault> {
    let session = call.session;
    if let Some(halves) = Parts::find(session, name)?.pair(session)? {
        return Ok(Some(halves));
    }
    call.sees_all()?;
    match parked(name) {
        Some(aside) if !Parts::find(session, &aside)?.is_empty() => Err(Fault::Interrupted),
        _ => Ok(None),
    }
}

/// The pair of this name, which is put right if a move was interrupted. To be called alone: a move that goes on looks
/// interrupted too.
pub(super) fn settle_pair(call: &Call<'_>, name: &ObjectName) -> Result<Option<Halves>, Fault> {
    match find_pair(call, name) {
        Err(Fault::Interrupted) => put_back(call.session, name),
        found => found,
    }
}

/// Makes a pair unless there is one. Half a pair makes room, but only when there is a new one:
/// a private key is kept under another label, and a public key, which is of no use alone, goes.
pub(super) fn make_pair(call: &Call<'_>, name: &ObjectName, algorithm: Algorithm) -> Result<Made, Fault> {
    if find_pair(call, name)?.is_some() {
        return Ok(Made::Pair);
    }
    let session = call.session;
    let strays = Parts::find(session, name)?;
    for half in strays.all() {
        relabel(session, half, &corrupt(name)?)?;
    }
    let made = generate_pair(call, name, algorithm);
    match &made {
        _ if strays.is_empty() => {}
        Ok(Made::Pair) if strays.private.is_empty() => {
            for half in strays.public {
                if let Err(fault) = destroy(session, half) {
                    tracing::warn!("half a key pair is left on the token: {fault}");
                }
            }
        }
        Ok(Made::Pair) => tell_aside(name),
        Ok(Made::None(_)) | Err(_) => {
            for half in strays.all() {
                if let Err(fault) = relabel(session, half, name.label.as_deref().unwrap_or_default()) {
                    tracing::warn!("half the key pair {} has another label now: {fault}", shown(name));
                }
            }
        }
    }
    made
}

/// Destroys what there is of a pair.
pub(super) fn destroy_pair(call: &Call<'_>, name: &ObjectName) -> Result<(), Fault> {
    call.sees_all()?;
    for name in [Some(name.clone()), parked(name)].into_iter().flatten() {
        let parts = Parts::find(call.session, &name)?;
        call.goes_on()?;
        parts.all().try_for_each(|half| destroy(call.session, half))?;
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
    let source = settle_pair(call, from)?.ok_or(Fault::NoObject)?;
    match settle_pair(call, to) {
        Ok(None) => {}
        // What is parked for a whole pair, or for more than that, is left of a move that was done but for the end.
        Ok(Some(_)) | Err(Fault::Unusable(_)) => clear(session, &aside)?,
        Err(fault) => return Err(fault),
    }
    has_begun.store(true, Ordering::Relaxed);
    let old = Parts::find(session, to)?;
    let parking = old.all().map(|half| (half, to_label.as_slice(), aside_label.as_slice()));
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
    let (from, moved) = (Parts::find(session, from)?, Parts::find(session, to)?);
    if !from.public.is_empty() || moved.public.is_empty() {
        return Ok(false);
    }
    match (from.private.as_slice(), moved.private.as_slice()) {
        ([], [_, ..]) => Ok(true),
        ([private], []) => {
            relabel(session, *private, to.label.as_deref().unwrap_or_default())?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Puts a parked pair in the place of the halves that there are, which are none or those of one side.
fn put_back(session: &Session, name: &ObjectName) -> Result<Option<Halves>, Fault> {
    let (Some(label), Some(aside)) = (&name.label, parked(name)) else { return Ok(None) };
    let (present, parked) = (Parts::find(session, name)?, Parts::find(session, &aside)?);
    tracing::warn!("a move to the key pair {} was interrupted; the old one is put back", shown(name));
    for (present, parked) in [(present.private, parked.private), (present.public, parked.public)] {
        if !parked.is_empty() {
            present.into_iter().try_for_each(|stray| set_aside(session, name, stray))?;
        }
        parked.into_iter().try_for_each(|half| relabel(session, half, label))?;
    }
    Parts::find(session, name)?.pair(session)
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
    Parts::find(session, name)?.all().try_for_each(|half| destroy(session, half))
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

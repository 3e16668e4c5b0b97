//! Which objects of one name are a key pair. Changes nothing on the token.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use key_api::ObjectName;

use super::fault::Fault;
use super::objects::find;

/// The halves of a key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halves {
    /// The public key object.
    pub(super) public: ObjectHandle,
    /// The private key object.
    pub(super) private: ObjectHandle,
}

/// The objects of one name that may be halves of a pair.
pub(super) struct Parts {
    /// Public key objects.
    pub(super) public: Vec<ObjectHandle>,
    /// Private key objects.
    pub(super) private: Vec<ObjectHandle>,
}

impl Parts {
    /// Those of this name that there are.
    pub(super) fn find(session: &Session, name: &ObjectName) -> Result<Self, Fault> {
        let public = find(session, ObjectClass::PUBLIC_KEY, name)?;
        Ok(Self { public, private: find(session, ObjectClass::PRIVATE_KEY, name)? })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.public.is_empty() && self.private.is_empty()
    }

    /// All of them, private ones first.
    pub(super) fn all(&self) -> impl Iterator<Item = ObjectHandle> {
        self.private.iter().chain(&self.public).copied()
    }

    /// The pair that they are. Of several, the first one that belongs together for having a `CKA_ID` that no other half of
    /// its side has; or else for the one half signing what the other one takes for good.
    pub(super) fn pair(&self, session: &Session) -> Result<Option<Halves>, Fault> {
        match (self.public.as_slice(), self.private.as_slice()) {
            ([], _) | (_, []) => return Ok(None),
            ([public], [private]) => return Ok(Some(Halves { public: *public, private: *private })),
            _ => {}
        }
        let named = |half: &ObjectHandle| Ok((id(session, *half)?, *half));
        let public = self.public.iter().map(named).collect::<Result<Vec<_>, Fault>>()?;
        let private = self.private.iter().map(named).collect::<Result<Vec<_>, Fault>>()?;
        let pairs = || public.iter().flat_map(|public| private.iter().map(move |private| (public, private)));
        let is_only = |halves: &[Named], id| halves.iter().filter(|(other, _)| other == id).count() == 1;
        let is_known = |id| is_only(&public, id) && is_only(&private, id);
        let known = pairs().find(|((id, _), (other, _))| !id.is_empty() && id == other && is_known(id));
        let halves =
            |((_, public), (_, private)): (&Named, &Named)| Halves { public: *public, private: *private };
        if let Some(known) = known.map(halves) {
            return Ok(Some(known));
        }
        for halves in pairs().map(halves).take(MAX_TRIED) {
            if is_proven(session, halves)? {
                return Ok(Some(halves));
            }
        }
        Err(Fault::Unusable(
            "there are several keys of one label, and which halves make a pair cannot be told by CKA_ID",
        ))
    }
}

/// An object and its `CKA_ID`, which may be empty.
type Named = (Vec<u8>, ObjectHandle);

fn id(session: &Session, object: ObjectHandle) -> Result<Vec<u8>, Fault> {
    let told =
        session.get_attributes(object, &[AttributeType::Id]).map_err(Fault::said("tell the id of a key"))?;
    Ok(match told.into_iter().next() {
        Some(Attribute::Id(id)) => id,
        _ => Vec::new(),
    })
}

/// Whether the token takes a signature of the one half for one of the other.
fn is_proven(session: &Session, Halves { public, private }: Halves) -> Result<bool, Fault> {
    for mechanism in [Mechanism::Ecdsa, Mechanism::RsaPkcs] {
        let signature = session.sign(&mechanism, private, &PROBE).map_err(Fault::said("sign"));
        let proof = signature.and_then(|signature| {
            session.verify(&mechanism, public, &PROBE, &signature).map_err(Fault::said("verify a signature"))
        });
        match proof {
            Ok(()) => return Ok(true),
            Err(fault) if fault.is_outage() => return Err(fault),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// What is signed for a proof: as long as a SHA-256 digest, and none of anything.
const PROBE: [u8; 32] = [0x5a; 32];
/// Halves that are tried out at most.
const MAX_TRIED: usize = 16;

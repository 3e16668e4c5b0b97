//! DECODERs for the key-reference file (provider-decoder(7); spec openssl-engine, 13.6 E3), in two steps as libcrypto
//! wants them: PEM to DER, DER to a key. Programs that only know key files come this way.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::object::{Object, lend, release, with_provider, with_ref};
use super::params::Builder;
use super::provider::{END_OF_TABLE, NO_ALGORITHM, Provider, algorithm};
use super::store::{export_object, load_key, present};
use super::sys::{Algorithm, Callback, CoreBio, Dispatch, OBJECT_PKEY, SELECT_PRIVATE};
use crate::reference;

pub(super) static ALGORITHMS: [Algorithm; 4] = [
    algorithm(c"DER", c"provider=aziot,input=pem", &FROM_PEM, c"references to keys in keyd"),
    algorithm(c"EC", c"provider=aziot,input=der,structure=AziotKeyUri", &FROM_DER, c"EC keys in keyd"),
    algorithm(c"RSA", c"provider=aziot,input=der,structure=AziotKeyUri", &FROM_DER, c"RSA keys in keyd"),
    NO_ALGORITHM,
];

static FROM_PEM: [Dispatch; 4] = [
    Dispatch { id: 1, function: newctx as *const () },
    Dispatch { id: 2, function: freectx as *const () },
    Dispatch { id: 11, function: decode_pem as *const () },
    END_OF_TABLE,
];

/// One for both types of keys: which it is, only keyd knows, and it is not to be asked twice. libcrypto looks at what it is
/// given, not at the name that the decoder was found by.
static FROM_DER: [Dispatch; 6] = [
    Dispatch { id: 1, function: newctx as *const () },
    Dispatch { id: 2, function: freectx as *const () },
    Dispatch { id: 10, function: does_selection as *const () },
    Dispatch { id: 11, function: decode_der as *const () },
    Dispatch { id: 20, function: export_object as *const () },
    END_OF_TABLE,
];

struct Decoding(Arc<Provider>);

impl Object for Decoding {
    fn provider(&self) -> &Provider {
        &self.0
    }
}

unsafe extern "C" fn newctx(context: *mut c_void) -> *mut c_void {
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Ok(Decoding(provider))) })
}

unsafe extern "C" fn freectx(ctx: *mut c_void) {
    // SAFETY: libcrypto gives back what `newctx` gave it, once.
    unsafe { release::<Decoding>(ctx) };
}

unsafe extern "C" fn does_selection(_context: *mut c_void, selection: c_int) -> c_int {
    c_int::from(selection == 0 || selection & SELECT_PRIVATE != 0)
}

/// Reads the next PEM block. One of another kind is no error: others may know it.
unsafe extern "C" fn decode_pem(
    ctx: *mut c_void,
    bio: *mut CoreBio,
    _selection: c_int,
    callback: Option<Callback>,
    argument: *mut c_void,
    _ask: *mut c_void,
    _ask_argument: *mut c_void,
) -> c_int {
    let decode = |decoding: &Decoding| {
        let mut buffer = Zeroizing::new([0; LINE_ROOM]);
        // SAFETY: libcrypto passes one of its BIOs.
        let lines = || unsafe { decoding.0.core().read_line(bio, buffer.as_mut_slice()) }.map(<[u8]>::to_vec);
        next_block(lines).map(|body| reference::from_base64(&body)).transpose()
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    let decoded = unsafe { with_ref(ctx, decode) };
    let (Some(decoded), Some(callback)) = (decoded, callback) else { return 0 };
    let Some(der) = decoded else { return 1 };
    let params = Builder::default()
        .int(c"type", OBJECT_PKEY)
        .text(c"data-structure", STRUCTURE)
        .octets(c"data", &der)
        .finish();
    // SAFETY: they came together, and the array lives until the call is over.
    unsafe { callback(params.as_ptr(), argument) }
}

unsafe extern "C" fn decode_der(
    ctx: *mut c_void,
    bio: *mut CoreBio,
    _selection: c_int,
    callback: Option<Callback>,
    argument: *mut c_void,
    _ask: *mut c_void,
    _ask_argument: *mut c_void,
) -> c_int {
    let decode = |decoding: &Decoding| {
        // SAFETY: libcrypto passes one of its BIOs.
        let der = Zeroizing::new(unsafe { decoding.0.core().read_all(bio, DER_LIMIT) });
        if !is_reference(&der) {
            return Ok(None);
        }
        let uri = reference::from_der(&der)?;
        load_key(&decoding.0, &uri, uri.public_only).map(Some)
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    match (unsafe { with_ref(ctx, decode) }, callback) {
        (None, _) | (_, None) => 0,
        (Some(None), _) => 1,
        // SAFETY: they came together.
        (Some(Some(key)), Some(callback)) => unsafe { present(key, callback, argument) },
    }
}

/// The body of the next PEM block, if its label is ours. Leaves everything behind the block unread.
fn next_block(mut lines: impl FnMut() -> Option<Vec<u8>>) -> Option<Zeroizing<String>> {
    let mut label = None;
    let mut body = Zeroizing::new(String::new());
    for _ in 0..LINE_LIMIT {
        let line = Zeroizing::new(lines()?);
        let text = std::str::from_utf8(&line).unwrap_or_default().trim_end();
        match (marked(text, "-----BEGIN "), marked(text, "-----END ")) {
            (Some(begun), _) if label.is_none() => label = Some(begun.to_owned()),
            (_, Some(ended)) if label.as_deref() == Some(ended) => {
                return (ended == reference::LABEL).then_some(body);
            }
            _ if label.as_deref() == Some(reference::LABEL) => body.push_str(text),
            _ => (),
        }
    }
    None
}

/// The label in a line that begins with `mark`.
fn marked<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.strip_prefix(mark)?.strip_suffix("-----")
}

/// Whether `der` has the description of a reference in the place where it must be. Anything else is for others.
fn is_reference(der: &[u8]) -> bool {
    der.first() == Some(&0x30) && der.windows(MARK.len()).take(8).any(|window| window == MARK)
}

/// Tag, length and beginning of the description.
const MARK: &[u8] = b"\x1a\x21Azure IoT Keys Service";
const STRUCTURE: &str = "AziotKeyUri";
/// Room for a line of PEM.
const LINE_ROOM: usize = 1024;
/// Lines that a PEM block may have at most, with what is before it.
const LINE_LIMIT: usize = 10_000;
/// Bytes of the longest reference.
const DER_LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyName;

    fn blocks(text: &str) -> Vec<bool> {
        let mut lines = text.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).peekable();
        let mut found = Vec::new();
        while lines.peek().is_some() {
            found.push(next_block(|| lines.next()).is_some());
        }
        found
    }

    #[test]
    fn blocks_are_read_one_at_a_time() {
        let ours = reference::to_pem(&KeyName::Id("x".into()));
        let other = "comment\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(blocks(&ours), [true]);
        assert_eq!(blocks(&format!("{other}{}{other}", ours.as_str())), [false, true, false]);
        assert_eq!(blocks(&ours.replace('\n', "\r\n")), [true]);
        assert_eq!(blocks(&ours[..40]), [false]);
        assert_eq!(blocks("nothing\n"), [false]);
    }

    #[test]
    fn the_structure_is_recognised() {
        let ours = reference::to_pem(&KeyName::Id("x".repeat(300)));
        let body: String = ours.lines().filter(|line| !line.starts_with('-')).collect();
        assert!(is_reference(&reference::from_base64(&body).unwrap()));
        assert!(!is_reference(b"\x30\x03\x02\x01\x00"));
    }
}

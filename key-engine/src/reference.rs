//! The file that names a key for programs which only take key files: PEM with the label `AZIOT KEY URI` around
//! SEQUENCE { VisibleString, UTF8String URI } (spec openssl-engine, 13.6 E3). Opens no files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::{Error, KeyName, KeyUri};

/// The PEM label.
pub const LABEL: &str = "AZIOT KEY URI";

/// The PEM text that refers to the private key `name`.
pub fn to_pem(name: &KeyName) -> Zeroizing<String> {
    let uri = name.to_uri();
    let content = Zeroizing::new(
        [element(VISIBLE_STRING, DESCRIPTION.as_bytes()).as_slice(), &element(UTF8_STRING, uri.as_bytes())]
            .concat(),
    );
    let body = Zeroizing::new(STANDARD.encode(element(SEQUENCE, &content).as_slice()));
    let mut pem = Zeroizing::new(format!("-----BEGIN {LABEL}-----\n"));
    for line in body.as_bytes().chunks(LINE) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {LABEL}-----\n"));
    pem
}

/// The bytes in the PEM block whose lines between BEGIN and END are `lines`.
pub fn from_base64(lines: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut text = Zeroizing::new(String::with_capacity(lines.len()));
    text.extend(lines.chars().filter(|character| !character.is_ascii_whitespace()));
    let bytes = STANDARD.decode(text.as_str()).map_err(|_| Error::BadReference("its body is not base64"))?;
    Ok(Zeroizing::new(bytes))
}

/// The key that `der`, the body of a PEM block, refers to.
pub fn from_der(der: &[u8]) -> Result<KeyUri, Error> {
    let (content, rest) = take(SEQUENCE, der)?;
    let (description, content) = take(VISIBLE_STRING, content)?;
    let (uri, end) = take(UTF8_STRING, content)?;
    if !rest.is_empty() || !end.is_empty() {
        return Err(Error::BadReference("there is something behind its end"));
    }
    if description != DESCRIPTION.as_bytes() {
        return Err(Error::BadReference("its version is unknown"));
    }
    KeyUri::parse(std::str::from_utf8(uri).map_err(|_| Error::BadReference("its URI is not UTF-8"))?)
}

/// One DER element.
fn element(tag: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = content.len();
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    let mut element = Zeroizing::new(Vec::with_capacity(length + 1 + bytes.len() + 1));
    element.push(tag);
    if length >= 0x80 {
        element.push(0x80 | u8::try_from(significant.len()).expect("a length has 8 bytes at most"));
    }
    element.extend_from_slice(significant);
    element.extend_from_slice(content);
    element
}

/// The content of the DER element at the beginning of `der`, and what follows it.
fn take(tag: u8, der: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let cut = Error::BadReference("it ends in the middle");
    let (found, rest) = der.split_first().ok_or(Error::BadReference("it ends in the middle"))?;
    if *found != tag {
        return Err(Error::BadReference("its structure is unknown"));
    }
    let (first, rest) = rest.split_first().ok_or(Error::BadReference("it ends in the middle"))?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (bytes, rest) =
                rest.split_at_checked(long - 0x80).ok_or(Error::BadReference("it ends in the middle"))?;
            if bytes.is_empty() || bytes.len() > 4 {
                return Err(Error::BadReference("a length in it is absurd"));
            }
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    rest.split_at_checked(length).ok_or(cut)
}

const DESCRIPTION: &str = "Azure IoT Keys Service key URI v1";
const SEQUENCE: u8 = 0x30;
const VISIBLE_STRING: u8 = 0x1a;
const UTF8_STRING: u8 = 0x0c;
/// Characters in a line of PEM.
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> Zeroizing<Vec<u8>> {
        let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("---")).collect();
        from_base64(&lines.join("\n")).unwrap()
    }

    #[test]
    fn a_reference_is_written_as_it_is_read() {
        let long = "sr=".to_owned() + &"A+/=".repeat(300) + "&sig=x";
        for name in [KeyName::Id("device/id 1".into()), KeyName::Handle(Zeroizing::new(long))] {
            let pem = to_pem(&name);
            assert!(pem.starts_with("-----BEGIN AZIOT KEY URI-----\n"));
            assert!(pem.lines().all(|line| line.len() <= 64));
            assert_eq!(from_der(&der(&pem)).unwrap(), KeyUri { name, public_only: false });
        }
    }

    #[test]
    fn damaged_references_are_refused() {
        let whole = der(&to_pem(&KeyName::Id("x".into())));
        for length in 0..whole.len() {
            assert!(from_der(&whole[..length]).is_err(), "{length} bytes");
        }
        for index in [0, 1, 2, 3, 4, 10, 37, 38] {
            let mut damaged = whole.clone();
            damaged[index] ^= 0x55;
            assert!(from_der(&damaged).is_err(), "byte {index}");
        }
        assert!(from_der(&[whole.as_slice(), b"x"].concat()).is_err());
        assert!(from_base64("AAA").is_err());
    }
}

//! Just enough DER to look into what OpenSSL's safe interface does not show: the attributes of requests, the extensions
//! of certificates, lists of attributes. Knows none of them.

/// Reads one element after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

/// One element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    /// Class, form and number in one byte; numbers above 30 do not occur here.
    pub(crate) tag: u8,
    /// What is inside.
    pub(crate) content: &'a [u8],
}

/// The bytes are not DER, or not of the form that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DER")]
pub(crate) struct Malformed;

impl<'a> Reader<'a> {
    /// A reader of the elements that `bytes` consist of.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next element; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        let [tag, length, rest @ ..] = self.0 else {
            return if self.0.is_empty() { Ok(None) } else { Err(Malformed) };
        };
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let (length, rest) = match *length {
            short @ 0..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f)).ok_or(Malformed)?;
                (bytes.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte)), rest)
            }
            _ => return Err(Malformed),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Some(Element { tag: *tag, content }))
    }

    /// The content of the next element, which must have this `tag`.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.next()?.filter(|element| element.tag == tag).map(|element| element.content).ok_or(Malformed)
    }

    /// The content of the next element, if it has this `tag`; another one is not consumed.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        match self.0.first() {
            Some(first) if *first == tag => self.expect(tag).map(Some),
            _ => Ok(None),
        }
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// The whole element with this content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut bytes = vec![tag];
    match content.len() {
        0..0x80 => bytes.push(length.first().copied().unwrap_or(0)),
        _ => {
            bytes.push(0x80 | u8::try_from(length.len()).expect("a length has eight bytes at most"));
            bytes.extend_from_slice(length);
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

/// The dotted form of an OBJECT IDENTIFIER's content.
pub(crate) fn dotted(content: &[u8]) -> Result<String, Malformed> {
    if content.last().is_none_or(|last| last & 0x80 != 0) {
        return Err(Malformed);
    }
    let mut arcs = Vec::new();
    let mut arc = 0_u64;
    for byte in content {
        arc = arc.checked_mul(128).ok_or(Malformed)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let first = (arcs[0] / 40).min(2);
    let rest: String = arcs[1..].iter().map(|arc| format!(".{arc}")).collect();
    Ok(format!("{first}.{}{rest}", arcs[0] - first * 40))
}

/// Tag of BOOLEAN.
pub(crate) const BOOLEAN: u8 = 0x01;
/// Tag of INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// Tag of OCTET STRING.
pub(crate) const OCTET_STRING: u8 = 0x04;
/// Tag of OBJECT IDENTIFIER.
pub(crate) const OID: u8 = 0x06;
/// Tag of SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
/// Tag of SET.
pub(crate) const SET: u8 = 0x31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_they_are_written() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let bytes = element(OCTET_STRING, &content);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.expect(OCTET_STRING), Ok(content.as_slice()), "{length}");
            assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn what_is_cut_or_indefinite_is_malformed() {
        for bytes in [
            &[0x30][..],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x82, 1],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x1f, 1, 0],
        ] {
            assert_eq!(Reader::new(bytes).next().map(|_| ()), Err(Malformed), "{bytes:?}");
        }
        assert!(Reader::new(&[]).next().unwrap().is_none());
    }

    #[test]
    fn object_identifiers() {
        let check = |content: &[u8], expected: Option<&str>| {
            assert_eq!(dotted(content).ok().as_deref(), expected, "{content:?}");
        };
        check(&[0x55, 0x1d, 0x0e], Some("2.5.29.14"));
        check(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e], Some("1.2.840.113549.1.9.14"));
        check(&[0x88, 0x37], Some("2.999"));
        check(&[0x27], Some("0.39"));
        check(&[], None);
        check(&[0x88], None);
        check(&[0xff; 12], None);
    }
}

//! As much of DER (X.690) as certs-only PKCS#7 and the extensions of certificates need.

/// The element `tag` with this content.
#[must_use]
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut bytes = vec![tag];
    match length[..] {
        [] => bytes.push(0),
        [short] if short < 0x80 => bytes.push(short),
        _ => {
            bytes.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
            bytes.extend(length);
        }
    }
    bytes.extend(content);
    bytes
}

/// The first element of `bytes`: tag, content, and what follows it.
#[must_use]
pub(crate) fn first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..0x80 => (usize::from(short), rest),
        _ => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (
                long.iter()
                    .try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?,
                rest,
            )
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// All elements that `bytes` consist of, until something is none.
pub(crate) fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = first(bytes)?;
        bytes = rest;
        Some((tag, content))
    })
}

/// `SEQUENCE`
pub(crate) const SEQUENCE: u8 = 0x30;
/// `SET`
pub(crate) const SET: u8 = 0x31;
/// `INTEGER`
pub(crate) const INTEGER: u8 = 0x02;
/// `OCTET STRING`
pub(crate) const OCTETS: u8 = 0x04;
/// `OBJECT IDENTIFIER`
pub(crate) const OID: u8 = 0x06;
/// `[0]`, constructed
pub(crate) const TAGGED_0: u8 = 0xa0;
/// `[3]`, constructed
pub(crate) const TAGGED_3: u8 = 0xa3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let mut bytes = element(OCTETS, &content);
            bytes.extend([5, 0]);
            let (tag, read, rest) = first(&bytes).unwrap();
            assert_eq!((tag, read, rest), (OCTETS, &content[..], &[5, 0][..]));
            assert_eq!(elements(&bytes).count(), 2);
        }
        assert_eq!(element(SEQUENCE, &[1; 200])[..3], [0x30, 0x81, 200]);
    }

    #[test]
    fn what_is_cut_is_none() {
        for bytes in
            [&[][..], &[0x30], &[0x30, 1], &[0x30, 0x82, 1], &[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]]
        {
            assert!(first(bytes).is_none(), "{bytes:?}");
        }
    }
}

//! Answers in every dress, and garbage.

use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;
use crate::support::authority::{Issued, pkcs7, tlv};

fn two() -> (Vec<X509>, Vec<u8>) {
    let root = Issued::root("root");
    let list = vec![root.leaf("leaf").cert, root.cert];
    let der = pkcs7(&list);
    (list, der)
}

#[test]
fn certs_55_dresses() {
    let (list, der) = two();
    let text = BASE64.encode(&der);
    let lines = |size: usize, end: &str| -> String {
        text.as_bytes()
            .chunks(size)
            .map(|line| format!("{}{end}", std::str::from_utf8(line).unwrap()))
            .collect()
    };
    let bodies: Vec<Vec<u8>> = vec![
        text.clone().into(),
        lines(64, "\n").into(),
        lines(76, "\r\n").into(),
        format!("\n\n  {}", lines(10, " \t\r\n")).into(),
        text.trim_end_matches('=').into(),
        format!("-----BEGIN PKCS7-----\n{}-----END PKCS7-----\n", lines(64, "\n")).into(),
        format!("-----BEGIN PKCS7-----\r\n{}-----END PKCS7-----", lines(64, "\r\n")).into(),
        format!("-----BEGIN CMS-----\n{}-----END CMS-----\n", lines(64, "\n")).into(),
        format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines(64, "\n")).into(),
        lines(64, "\r").into(),
        format!("-----BEGIN PKCS7-----\r{}-----END PKCS7-----\r", lines(64, "\r")).into(),
        format!("Your certificate:\n\n-----BEGIN PKCS7-----\n{}-----END PKCS7-----\nBye\n", lines(64, "\n"))
            .into(),
        der.clone(),
    ];
    for body in bodies {
        let found =
            certificates(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
        assert!(found == list, "{}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn what_is_not_understood() {
    let (_, der) = two();
    let check = |body: &[u8], expected: &str| {
        let error = certificates(body).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{}: {error:?}", String::from_utf8_lossy(body));
    };
    check(b"", "not PKCS #7");
    check(b"<html>sorry</html>", "not in base64");
    check(b"\xff\xfe", "not in base64");
    check(BASE64.encode(b"hello").as_bytes(), "not PKCS #7");
    check(&der[..der.len() / 2], "not PKCS #7");
    check(b"-----BEGIN PKCS7-----\nAAAA\n", "not PKCS #7");
    check(&pkcs7(&[]), "no certificates");
    // Other types than signedData, also with nothing in them.
    let data =
        [b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01".as_slice(), &tlv(0xa0, b"\x04\x01x")].concat();
    check(&tlv(0x30, &data), "no certificates");
    check(&tlv(0x30, b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"), "no certificates");
    let empty = certificates(&tlv(0x30, b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"));
    assert!(empty.is_err(), "signedData without any content");
}

#[test]
fn media_types() {
    let check = |found: Option<&str>, expected: bool| {
        assert_eq!(check_type(found, "application/pkcs7-mime").is_ok(), expected, "{found:?}");
    };
    check(Some("application/pkcs7-mime"), true);
    check(Some("application/pkcs7-mime; smime-type=certs-only"), true);
    check(Some("Application/PKCS7-MIME ;smime-type=certs-only"), true);
    check(Some("application/pkcs7-mimeX"), false);
    check(Some("application/x-pkcs7-mime"), false);
    check(Some("text/html"), false);
    check(None, false);
}

/// Nothing that comes from outside brings the service down.
#[test]
fn torn_answers_are_refused_without_a_panic() {
    let (_, der) = two();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5000 {
        let mut torn = der.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..torn.len());
            torn[at] = random.u8(..);
        }
        torn.truncate(random.usize(1..=torn.len() * 2).min(torn.len()));
        // What remains readable is as good as another answer.
        let _ = certificates(&torn);
        let _ = certificates(BASE64.encode(&torn).as_bytes());
        let _ = super::super::attributes::key_algorithms(&torn);
    }
}

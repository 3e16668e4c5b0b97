//! Signing with the auth key: checklist 17, 20, 23.

use super::{Site, hmac, refused};

#[test]
fn tpm_17_nothing_is_signed_without_a_key() {
    let site = Site::start();
    refused(site.try_sign(b"x"), "there is no auth key");
    refused(site.try_sign(&[1; 3000]), "there is no auth key");
    site.stop_and_check();
}

#[test]
fn tpm_20_23_signatures_of_any_length() {
    let site = Site::start();
    for key in [vec![7; 16], vec![8; 32], vec![9; 64]] {
        site.import(&key);
        for length in [0, 1, 5, 1023, 1024, 1025, 2047, 2048, 2049, 3000, 100_000] {
            let data: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
            let reply = site.try_sign(&data).expect(200).expect_plain();
            assert_eq!(reply.bytes("digest"), hmac(&key, &data), "{length} bytes");
        }
    }
    site.stop_and_check();
}

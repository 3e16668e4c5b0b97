//! Many operations: nothing is leaked, and nothing becomes slow or large. `AZIOT_TPM_OPERATIONS` sets how many.

use std::{env, thread};

use super::{Site, hmac, signing};

#[test]
fn tpm_23_many_operations_leave_nothing_behind() {
    let site = Site::start();
    let operations: u32 = env::var("AZIOT_TPM_OPERATIONS").map_or(1_000, |number| number.parse().unwrap());
    let (good, damaged) = (site.wrap(&[1; 32]), damaged(&site.wrap(&[2; 32])));
    site.try_import(&good).expect(200);
    work(&site, &good, &damaged, 100);
    let (memory, files) = (site.tpmd.resident_kib(), site.tpmd.open_files());
    work(&site, &good, &damaged, operations);
    assert!(site.tpmd.open_files() <= files + 2, "{} files, before {files}", site.tpmd.open_files());
    let grown = site.tpmd.resident_kib().saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB more after {operations} operations");
    site.signs_with(&[1; 32]);
    assert!(!site.tpmd.log().contains("the TPM is full"), "nothing had to be cleared away");
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent").len(), 3);
}

/// All kinds of operations, by two callers at once; one of ten imports, half of those in vain.
fn work(site: &Site, good: &[u8], damaged: &[u8], operations: u32) {
    thread::scope(|scope| {
        for caller in 0..2 {
            scope.spawn(move || {
                for number in (caller..operations).step_by(2) {
                    match number % 20 {
                        0 => site.try_import(good).expect(200),
                        7 => site.try_import(damaged).expect(500),
                        3 => site.client().get("/get_tpm_keys").expect(200),
                        other => sign(site, &vec![5; if other % 5 == 1 { 2500 } else { 100 }]),
                    };
                }
            });
        }
    });
}

fn sign(site: &Site, data: &[u8]) -> suite_tests::http::Reply {
    let reply = site.client().post("/sign_with_auth_key", &signing(data)).expect(200);
    assert_eq!(reply.bytes("digest"), hmac(&[1; 32], data));
    reply
}

/// The TPM notices only at the end that this key is none.
fn damaged(wrapped: &[u8]) -> Vec<u8> {
    let mut damaged = wrapped.to_vec();
    damaged[400] ^= 1;
    damaged
}

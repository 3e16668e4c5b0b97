//! Many operations: nothing is leaked, and nothing becomes slow or large. `AZIOT_TPM_OPERATIONS` sets how many.

use std::{env, fs, thread};

use suite_tests::{
    keys::{Keys, by_handle, ecdsa_request},
    openssl::hmac,
};

use super::Site;

#[test]
fn many_operations_leave_nothing_behind() {
    let site = Site::start();
    let operations: u32 = env::var("AZIOT_TPM_OPERATIONS").map_or(300, |number| number.parse().unwrap());
    let keys = Handles::make(&site);
    work(&site, &keys, 100);
    let (memory, descriptors, files) = (site.keyd.resident_kib(), site.keyd.open_files(), files(&site));
    work(&site, &keys, operations);
    let open = site.keyd.open_files();
    assert!(open <= descriptors + 2, "{open} descriptors, before {descriptors}");
    let grown = site.keyd.resident_kib().saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB more after {operations} operations");
    assert_eq!(self::files(&site), files);
    assert!(!site.keyd.log().contains("the TPM is full"), "nothing had to be cleared away");
    println!(
        "{operations} operations: {grown} KiB and {} descriptors more",
        open.saturating_sub(descriptors)
    );
    let (_, tpm) = site.end();
    tpm.holds_nothing_transient();
    assert_eq!(tpm.handles("persistent"), [0x8100_0001]);
}

/// The keys that are there all the while.
struct Handles {
    pair: String,
    rsa: String,
    key: String,
    /// The TPM notices only when it is to load it that this pair is none.
    damaged: String,
}

impl Handles {
    fn make(site: &Site) -> Handles {
        let client = site.client();
        let damaged = client.create_pair("damaged", "ec-p256");
        let text = fs::read_to_string(site.file("damaged")).unwrap();
        // A letter amid the wrapped private part, which is the last.
        let mut letters = text.into_bytes();
        let at = letters.len() - 100;
        letters[at] = if letters[at] == b'A' { b'B' } else { b'A' };
        fs::write(site.file("damaged"), letters).unwrap();
        Handles {
            pair: client.create_pair("pair", "ec-p256"),
            rsa: client.create_pair("rsa", "rsa-2048"),
            key: client.import_key("key", "sign", &[1; 32]),
            damaged,
        }
    }
}

/// All kinds of operations, by two callers at once. One of ten makes a key, uses it and deletes it.
fn work(site: &Site, keys: &Handles, operations: u32) {
    thread::scope(|scope| {
        for caller in 0..2 {
            scope.spawn(move || {
                let client = site.client();
                for number in (caller..operations).step_by(2) {
                    let id = format!("new{caller}");
                    match number % 20 {
                        0 | 1 => {
                            let pair = client.create_pair(&id, "ec-p256");
                            client.ecdsa(&client.load_pair(&id), &[3; 32]);
                            client.delete("/keypair", Some(&by_handle(&pair))).expect(204);
                        }
                        10 | 11 => {
                            let key = client.create_key(&id, "sign");
                            assert_eq!(client.hmac(&key, b"m"), client.hmac(&client.load_key(&id), b"m"));
                            client.delete("/key", Some(&by_handle(&key))).expect(204);
                        }
                        2 => drop(client.rsa(&keys.rsa, "RSA-PKCS1", &[4; 51])),
                        3 => drop(client.load_pair("pair")),
                        7 => drop(client.post("/sign", &ecdsa_request(&keys.damaged, &[5; 32])).expect(500)),
                        other if other % 2 == 0 => drop(client.ecdsa(&keys.pair, &[6; 32])),
                        // What is longer than one command takes more of them, and an object of its own meanwhile.
                        other => {
                            let message = vec![7; if other % 5 == 0 { 100 } else { 2500 }];
                            assert_eq!(client.hmac(&keys.key, &message), hmac(&[1; 32], &message));
                        }
                    }
                }
            });
        }
    });
}

fn files(site: &Site) -> usize {
    fs::read_dir(site.keyd.home().join("keys")).unwrap().count()
}

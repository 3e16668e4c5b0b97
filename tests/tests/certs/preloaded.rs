//! Certificates at places of their own, and bundles: checklist 46-49.

use std::fs;

use suite_tests::harness::{CERTD, Daemon, Setup};

use super::{Certs, any_pem, says};

/// A certd with `preloaded`, in which DIR is a directory of ours.
fn certd(preloaded: &str) -> Daemon {
    let setup = Setup::new(&CERTD);
    let directory = setup.directory().to_str().unwrap().to_owned();
    setup.config(&format!("[preloaded_certs]\n{}", preloaded.replace("DIR", &directory))).start()
}

#[test]
fn certs_46_files_are_served_as_they_are_now() {
    let certd = certd("a = 'file://DIR/a.pem'");
    let file = certd.setup().directory().join("a.pem");
    certd.client().fetch("a").expect(400);
    for text in ["# any text\n", "other"] {
        fs::write(&file, text).unwrap();
        assert_eq!(certd.client().fetch("a").expect(200).string("pem"), text);
    }
}

#[test]
fn certs_47_48_bundles() {
    let certd = certd(
        "a = 'file://DIR/a.pem'\nboth = ['a', 'missing', 'own']\nnested = ['both', 'a']\nnone = ['missing']\n",
    );
    let (client, first, second) = (certd.client(), any_pem(), any_pem());
    fs::write(certd.setup().directory().join("a.pem"), first.trim_end()).unwrap();
    client.import("own", &second).expect(201);
    let read = |id: &str| client.fetch(id).expect(200).string("pem");
    assert_eq!(read("both"), format!("{first}{second}"), "with a line end between");
    assert_eq!(read("nested"), format!("{first}{second}{}", first.trim_end()));
    client.fetch("none").expect(400);
    client.import("both", &first).expect(500);
    client.forget("both").expect(500);
    client.import("a", &second).expect(201);
    assert_eq!(fs::read_to_string(certd.setup().directory().join("a.pem")).unwrap(), second);
    assert_eq!(client.forget("a").status, 204);
    assert!(!certd.setup().directory().join("a.pem").exists());
}

/// Upstream overflows its stack at a bundle that contains itself.
#[test]
fn certs_49_what_cannot_be_got() {
    let mut certd = certd(
        "web = 'https://host/a.pem'\nhost = 'file://otherhost/a.pem'\nself = ['self']\none = ['two']\ntwo = ['one']",
    );
    for id in ["web", "host", "self", "one", "two"] {
        certd.client().fetch(id).expect(500);
        says(&certd, &format!("preloaded_certs.\"{id}\""));
    }
    assert!(certd.is_running());
}

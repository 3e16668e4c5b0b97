//! A principal for a group is for whoever runs with it, be it as the supplementary one that an administrator's `usermod -aG` or a
//! unit's `SupplementaryGroups=` gives: all four daemons alike.

use suite_tests::{
    harness::{CERTD, IDENTITYD, KEYD, Service, Setup, TPMD},
    http::{Client, Reply},
};

/// A group that every system has, of which uid 4711 is no member.
const GROUP: (&str, u32) = ("sys", 3);

#[test]
fn decided_supplementary_groups_count() {
    check(&KEYD, "keys = ['*']", |client| client.post("/key", &super::create("a")));
    check(&CERTD, "certs = ['*']", |client| client.delete("/certificates/a", None));
    check(&IDENTITYD, "name = 'manager'", |client| client.get("/identities/modules"));
    check(&TPMD, "", |client| client.get("/get_tpm_keys"));
}

/// What `ask` asks of `service` is refused to those without the group, and only to them.
#[track_caller]
fn check(service: &'static Service, rights: &str, ask: impl Fn(&Client) -> Reply) {
    let principal = format!("[[principal]]\ngroup = '{}'\n{rights}\n", GROUP.0);
    let needed = match service.program {
        "aziot-identityd" => "hostname = 'device'\nprovisioning.source = 'none'\n",
        "aziot-tpmd" => "tcti = 'device:/nowhere'\n",
        _ => "",
    };
    let daemon = Setup::new(service).config(&format!("{needed}{principal}")).start();
    let many: Vec<u32> = (100..400).chain([GROUP.1]).collect();
    let client = daemon.as_uid(4711);
    for (groups, meant) in [(vec![], false), (vec![5, 6], false), (vec![5, GROUP.1], true), (many, true)] {
        let status = ask(&client.in_groups(&groups)).status;
        assert_eq!(status != 401, meant, "{}: {status} with {} groups", service.program, groups.len());
    }
}

//! Changes of configuration files at run time: checklist 17-21, 23.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use suite_tests::{
    harness::{BOUND, CERTD, Daemon, KEYD, Setup},
    http::wait_for,
    subject,
};

use super::{create, may, principal};

#[test]
fn common_17_a_new_principal_file_grants_access() {
    let keyd = Setup::new(&KEYD).start();
    assert!(!may(&keyd, 1000, "a-1"));
    keyd.write_drop_in("50-a.toml", &principal(1000, "a-*"));
    eventually(&keyd, 1000, "a-1", true);
    assert!(!may(&keyd, 1000, "b-1"));
}

#[test]
fn common_17_a_file_written_in_place_grants_access() {
    let keyd = Setup::new(&KEYD).start();
    fs::write(keyd.setup().drop_in_directory().join("50-a.toml"), principal(1000, "a-*")).unwrap();
    eventually(&keyd, 1000, "a-1", true);
}

#[test]
fn common_18_removing_the_file_revokes_access() {
    let keyd = Setup::new(&KEYD).drop_in("50-a.toml", &principal(1000, "a-*")).start();
    assert!(may(&keyd, 1000, "a-1"));
    keyd.remove_drop_in("50-a.toml");
    eventually(&keyd, 1000, "a-1", false);
}

#[test]
fn common_19_a_broken_file_leaves_the_old_rules_in_force() {
    let mut keyd = Setup::new(&KEYD).drop_in("50-a.toml", &principal(1000, "a-*")).start();
    keyd.write_drop_in("60-broken.toml", "[[principal");
    keyd.wait_for_log(LATEST, |line| line.starts_with("<4>") || line.starts_with("<3>"));
    assert!(may(&keyd, 1000, "a-1"));
    assert!(keyd.is_running());
    keyd.remove_drop_in("60-broken.toml");
    keyd.write_drop_in("60-good.toml", &principal(1000, "b-*"));
    eventually(&keyd, 1000, "b-1", true);
}

#[test]
fn common_20_the_limit_does_not_change_before_a_restart() {
    let mut keyd = Setup::new(&KEYD).start();
    keyd.write_drop_in("50-none.toml", &format!("max_requests = 0\n{}", principal(1000, "*")));
    eventually(&keyd, 1000, "a", true); // the file has been read, and requests still pass
    keyd.restart();
    assert_ne!(keyd.client().post("/key", &create("a")).status, 200);
}

#[test]
fn common_21_a_certificate_becomes_readable() {
    let certd = Setup::new(&CERTD).start();
    let file = certd.setup().directory().join("new.pem");
    fs::write(&file, "as it is\n").unwrap();
    let read = || certd.client().get("/certificates/new");
    read().expect(400);
    certd.write_drop_in("50-new.toml", &format!("[preloaded_certs]\nnew = 'file://{}'\n", file.display()));
    let reply = wait_for("the certificate", LATEST, || Some(read()).filter(|reply| reply.status == 200));
    assert_eq!(reply.string("pem"), "as it is\n");
}

#[test]
fn common_23_reading_the_files_is_no_change() {
    let keyd = Setup::new(&KEYD).config("max_requests = 5").start();
    let read = || {
        fs::read(keyd.setup().main_file()).unwrap();
        for entry in fs::read_dir(keyd.setup().drop_in_directory()).unwrap() {
            fs::read(entry.unwrap().path()).unwrap();
        }
    };
    thread::sleep(Duration::from_millis(500));
    let before = keyd.log();
    read();
    thread::sleep(if subject::is_foreign() { LATEST } else { Duration::from_secs(3) });
    assert_eq!(keyd.log(), before, "nothing happened, nothing is logged");
}

/// Upstream sees only the first replacement of its main file, and never a file that was not there at its start.
#[test]
fn common_17_decided_the_main_file_may_come_later_and_be_replaced_again_and_again() {
    let keyd = Setup::new(&KEYD).start();
    let replace = |toml: &str| {
        let new = keyd.setup().directory().join("new");
        fs::write(&new, toml).unwrap();
        fs::rename(new, keyd.setup().main_file()).unwrap();
    };
    for (id, other) in [("a", "c"), ("b", "a"), ("c", "b")] {
        replace(&principal(1000, id));
        eventually(&keyd, 1000, id, true);
        assert!(!may(&keyd, 1000, other));
    }
}

#[test]
fn common_17_decided_a_hangup_signal_reads_the_files_again() {
    let mut keyd = Setup::new(&KEYD).start();
    keyd.signal(rustix::process::Signal::HUP);
    keyd.wait_for_log(BOUND, |line| line.contains("configuration is in force"));
    assert!(keyd.is_running());
}

#[test]
fn a_log_level_that_is_removed_is_no_longer_in_force() {
    let mut keyd = Setup::new(&KEYD).drop_in("50-log.toml", "log_level = 'debug'").start();
    let debug_lines = |keyd: &Daemon| keyd.log().lines().filter(|line| line.starts_with("<7>")).count();
    keyd.client().get("/nowhere").expect(404);
    keyd.wait_for_log(BOUND, |line| line.starts_with("<7>") && line.contains("404"));
    keyd.remove_drop_in("50-log.toml");
    keyd.wait_for_log(BOUND, |line| line.contains("configuration is in force"));
    let before = debug_lines(&keyd);
    keyd.client().get("/nowhere").expect(404);
    keyd.terminate();
    assert_eq!(debug_lines(&keyd), before, "{}", keyd.log());
}

#[test]
fn principals_have_names_and_groups_and_an_unknown_one_is_a_warning() {
    let keyd = Setup::new(&KEYD).start();
    let file = "[[principal]]\nuser = 'bin'\nkeys = ['u-*']\n[[principal]]\ngroup = 'sys'\nkeys = ['g-*']\n\
        [[principal]]\nuid = 'no-such-user'\nkeys = ['*']\n";
    let start = Instant::now();
    keyd.write_drop_in("50-names.toml", file);
    wait_for("the new rules", BOUND, || may(&keyd, 2, "u-1").then_some(()));
    assert!(start.elapsed() < Duration::from_secs(2) + SLOW_MACHINE, "took {:?}", start.elapsed());
    assert!(may(&keyd, 3, "g-1"), "uid 3 runs with the group sys");
    assert!(!may(&keyd, 2, "g-1") && !may(&keyd, 3, "u-1") && !may(&keyd, 4, "u-1"));
    keyd.wait_for_log(BOUND, |line| line.starts_with("<4>") && line.contains("no-such-user"));
}

/// Access must change to `allowed` within the time that upstream needs at most.
#[track_caller]
fn eventually(keyd: &Daemon, uid: u32, id: &str, allowed: bool) {
    let start = Instant::now();
    wait_for("the new rules", BOUND, || {
        thread::sleep(Duration::from_millis(50));
        (may(keyd, uid, id) == allowed).then_some(())
    });
    assert!(start.elapsed() < LATEST, "took {:?}", start.elapsed());
}

/// What this machine may take besides.
const SLOW_MACHINE: Duration = Duration::from_secs(3);
/// The longest time from a change to its effect.
const LATEST: Duration = Duration::from_secs(13);

//! Logs, signals, exit status: checklist 65-69.

use std::{
    thread,
    time::{Duration, Instant},
};

use regex_lite::Regex;
use rustix::process::Signal;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::{End, wait_for},
    keys::Keys,
    subject,
};

use super::{LAST_BYTE, begin};

#[test]
fn common_65_log_lines_have_priority_time_and_level() {
    let mut keyd = Setup::new(&KEYD).env("AZIOT_LOG", "debug").drop_in("x.toml", "unknown = 1").start();
    keyd.client().create_key("a", "sign");
    keyd.client().get("/key/missing").expect(400);
    keyd.terminate();
    let log = keyd.log();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        assert!(is_line(line), "{line}");
    }
}

#[test]
fn common_65_requests_cannot_break_a_line() {
    let keyd = Setup::new(&KEYD).env("AZIOT_LOG", "debug").start();
    keyd.client().get("/key/a%0A%3C3%3Eforged?x=%0Afake");
    keyd.client().post("/key", &serde_json::json!({ "keyId": "a\n<3>forged", "usage": "sign" }));
    let log = keyd.log();
    assert!(log.lines().all(|line| !line.starts_with("<3>forged") && !line.starts_with("fake")), "{log}");
}

#[test]
fn common_66_the_level_decides_what_is_logged() {
    let lines = |level: &str, priority: &str| {
        let setup = Setup::new(&KEYD);
        let mut keyd = if level.is_empty() { setup } else { setup.env("AZIOT_LOG", level) }.start();
        keyd.client().create_key("a", "sign");
        keyd.client().get("/nowhere").expect(404);
        keyd.terminate();
        keyd.log().lines().filter(|line| line.starts_with(priority)).count()
    };
    assert!(lines("", "<6>") > 0, "information by default");
    assert_eq!(lines("", "<7>"), 0, "no debug by default");
    assert_eq!(lines("ERROR", "<6>"), 0, "information is suppressed");
    assert!(lines("aziot=debug", "<7>") > 0, "the daemon's own target is called aziot...");
    assert!(lines("DEBUG", "<7>") > 0);
}

#[test]
fn common_67_an_unparsable_level_does_not_prevent_the_start() {
    Setup::new(&KEYD).env("AZIOT_LOG", "=/;,loud=very").start().client().create_key("a", "sign");
    let keyd = Setup::new(&KEYD).env("AZIOT_LOG", "debug/[").start();
    keyd.wait_for_log(BOUND, |line| {
        is_line(line) && line.contains("the pattern \"[\" of the log level is ignored")
    });
}

#[test]
fn common_67_a_level_gone_wrong_is_told_and_silences_nothing() {
    let keyd = Setup::new(&KEYD).config("log_level = 'warning'").start();
    keyd.wait_for_log(BOUND, |line| is_line(line) && line.contains("\"warning\" is no log level"));
    keyd.wait_for_log(BOUND, |line| line.contains(" serves "));
    let check = ["sh", "-c", r#"exec "$@" --check-config"#, "sh"];
    let checked = Setup::new(&KEYD).config("log_level = 'warning'").wrapper(check).start_and_end();
    assert!(checked.log.contains("\"warning\" is no log level"), "{}", checked.log);
}

#[test]
fn a_check_tells_of_a_library_that_is_not_there() {
    let check = ["sh", "-c", r#"exec "$0" --check-config"#];
    let library = "[aziot_keys]\npkcs11_lib_path = '/nonexistent.so'\n";
    let checked = Setup::new(&KEYD).drop_in("50-token.toml", library).wrapper(check).start_and_end();
    assert!(checked.log.contains("there is no /nonexistent.so"), "{}", checked.log);
}

#[test]
fn common_67_notes_that_nobody_can_read_are_no_fault() {
    let unheard = ["sh", "-c", r#"exec "$0" --unknown 2>/dev/full"#];
    let keyd = Setup::new(&KEYD).config("log_level = 'warning'").wrapper(unheard).start();
    keyd.client().create_key("a", "sign");
}

#[test]
fn help_that_nobody_reads_is_no_fault() {
    let unread = ["sh", "-c", r#"{ sleep 0.2; "$@" --help; echo "status $?" >&2; } | :"#, "sh"];
    let ended = Setup::new(&KEYD).wrapper(unread).start_and_end();
    assert_eq!(ended.log.trim_end(), "status 0");
}

#[test]
fn common_68_sigterm_ends_the_process() {
    let mut keyd = Setup::new(&KEYD).start();
    let _idle = keyd.client().connect();
    let start = Instant::now();
    let status = keyd.terminate();
    assert!(start.elapsed() < Duration::from_secs(15), "took {:?}", start.elapsed());
    assert!(subject::is_foreign() || status.success(), "an ordered end is a success: {status}");
}

#[test]
fn common_68_decided_a_request_under_way_is_answered_before_the_end() {
    let mut keyd = Setup::new(&KEYD).start();
    let mut held = begin(&keyd.client());
    thread::sleep(Duration::from_millis(300));
    keyd.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    held.send(LAST_BYTE);
    held.reply().expect(200);
    assert_ne!(held.end(BOUND), End::Open);
    assert!(keyd.wait_for_end(BOUND).success());
}

#[test]
fn common_68_decided_a_second_signal_waits_for_nobody() {
    let mut keyd = Setup::new(&KEYD).start();
    let mut held = begin(&keyd.client());
    // A request that was taken up after the held one: that one has been taken up too.
    keyd.client().create_key("a", "sign");
    keyd.signal(Signal::TERM);
    wait_for("no more connections", BOUND, || keyd.client().try_connect().err());
    keyd.signal(Signal::INT);
    held.reply().expect(503);
    assert!(keyd.wait_for_end(BOUND).success());
}

#[test]
fn common_69_a_configuration_error_ends_with_a_status_that_is_no_success() {
    let ended = Setup::new(&KEYD).config("max_requests = -1").start_and_end();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{:?}", ended.status);
    assert!(ended.log.lines().any(|line| line.starts_with("<3>")), "{}", ended.log);
}

/// Whether a line of the log has its form.
fn is_line(line: &str) -> bool {
    let form = r"^<[3467]>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[(ERR!|WARN|INFO|DBUG|TRCE)\] - ";
    Regex::new(form).unwrap().is_match(line)
}

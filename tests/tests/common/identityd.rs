//! What is special to identityd among the common rules: checklist 6.

use suite_tests::harness::{IDENTITYD, Setup};

#[test]
fn common_06_identityd_without_configuration_ends_with_status_1() {
    let ended = Setup::bare(&IDENTITYD).start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.lines().any(|line| line.starts_with("<3>")), "{}", ended.log);
}

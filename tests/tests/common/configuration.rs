//! Processes and configuration: checklist 1-14.

use std::{fs, os::unix::fs::symlink};

use suite_tests::{
    harness::{KEYD, Setup},
    keys::Keys,
    subject,
};

use super::{create, may, principal};

#[test]
fn common_01_the_program_serves_from_any_directory() {
    let setup = Setup::new(&KEYD);
    let link = setup.directory().join("aziot-keyd");
    symlink(subject::program("aziot-keyd"), &link).unwrap();
    let script = format!("exec '{}'", link.display());
    setup.wrapper(["sh", "-c", &script]).start().client().create_key("a", "sign");
}

#[test]
fn common_03_variables_redirect_main_file_and_directory() {
    let setup = Setup::new(&KEYD);
    let (file, directory) = (setup.directory().join("other.toml"), setup.directory().join("other.d"));
    fs::rename(setup.drop_in_directory(), &directory).unwrap();
    fs::write(&file, principal(1000, "file-*")).unwrap();
    fs::write(directory.join("50-other.toml"), principal(1000, "directory-*")).unwrap();
    let keyd = setup.env("AZIOT_KEYD_CONFIG", &file).env("AZIOT_KEYD_CONFIG_DIR", &directory).start();
    assert!(may(&keyd, 1000, "file-a"));
    assert!(may(&keyd, 1000, "directory-a"));
    assert!(!may(&keyd, 1000, "a"));
}

#[test]
fn common_07_a_later_file_replaces_a_number() {
    let setup =
        Setup::new(&KEYD).drop_in("10-a.toml", "max_requests = 0").drop_in("20-b.toml", "max_requests = 3");
    setup.start().client().create_key("a", "sign");
}

#[test]
fn common_08_principals_of_several_files_add_up() {
    let setup = Setup::new(&KEYD).config(&principal(1000, "main-*"));
    let keyd =
        setup.drop_in("a.toml", &principal(1000, "a-*")).drop_in("b.toml", &principal(1000, "b-*")).start();
    for id in ["main-1", "a-1", "b-1"] {
        assert!(may(&keyd, 1000, id), "{id}");
    }
    assert!(!may(&keyd, 1000, "c-1"));
    assert!(!may(&keyd, 1001, "a-1"));
}

#[test]
fn common_09_only_the_extension_toml_counts_and_hidden_files_do() {
    let setup = Setup::new(&KEYD).drop_in("x.TOML", &principal(1000, "upper"));
    let setup =
        setup.drop_in("x.toml.bak", &principal(1000, "backup")).drop_in("toml", &principal(1000, "bare"));
    let setup =
        setup.drop_in(".toml", &principal(1000, "nameless")).drop_in(".x.toml", &principal(1000, "hidden"));
    let keyd = setup.start();
    assert!(may(&keyd, 1000, "hidden"));
    for id in ["upper", "backup", "bare", "nameless"] {
        assert!(!may(&keyd, 1000, id), "{id}");
    }
}

#[test]
fn common_10_a_symlink_in_the_directory_is_ignored() {
    let setup = Setup::new(&KEYD);
    let target = setup.directory().join("target.toml");
    fs::write(&target, principal(1000, "*")).unwrap();
    symlink(&target, setup.drop_in_directory().join("x.toml")).unwrap();
    assert!(!may(&setup.start(), 1000, "a"));
}

#[test]
fn common_10_the_main_file_may_be_a_symlink() {
    let setup = Setup::new(&KEYD);
    let target = setup.directory().join("target.toml");
    fs::write(&target, principal(1000, "*")).unwrap();
    symlink(&target, setup.main_file()).unwrap();
    assert!(may(&setup.start(), 1000, "a"));
}

#[test]
fn common_11_a_directory_in_the_directory_is_ignored() {
    let setup = Setup::new(&KEYD);
    let inner = setup.drop_in_directory().join("x.toml");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("y.toml"), principal(1000, "*")).unwrap();
    assert!(!may(&setup.start(), 1000, "a"));
}

#[test]
fn common_12_a_file_that_is_not_utf8_ends_the_start() {
    let setup = Setup::new(&KEYD);
    fs::write(setup.drop_in_directory().join("x.toml"), b"max_requests = 1 # \xff").unwrap();
    fails_naming("x.toml", setup);
}

#[test]
fn common_13_a_syntax_error_ends_the_start() {
    fails_naming("broken.toml", Setup::new(&KEYD).drop_in("broken.toml", "max_requests ="));
}

#[test]
fn common_13_a_wrong_type_ends_the_start() {
    fails_naming("wrong.toml", Setup::new(&KEYD).drop_in("wrong.toml", "max_requests = 'ten'"));
}

#[test]
fn common_13_a_main_file_that_cannot_be_read_ends_the_start() {
    let setup = Setup::new(&KEYD);
    fs::create_dir(setup.main_file()).unwrap();
    fails_naming("config.toml", setup);
}

#[test]
fn common_14_unknown_keys_do_not_prevent_the_start() {
    let setup = Setup::new(&KEYD).config("colour = 'green'\n[unheard_of]\na = [1, 2]\n");
    let keyd = setup.drop_in("more.toml", "surprise = true").start();
    keyd.client().post("/key", &create("a")).expect(200);
    if !subject::is_foreign() {
        let warns = |line: &str, key| line.starts_with("<4>") && line.contains(key);
        keyd.wait_for_log(suite_tests::harness::BOUND, |line| {
            warns(line, "colour") && line.contains("config.toml")
        });
        keyd.wait_for_log(suite_tests::harness::BOUND, |line| {
            warns(line, "surprise") && line.contains("more.toml")
        });
    }
}

/// The start must end with status 1, with an error line; our builds name the file in it.
#[track_caller]
fn fails_naming(file: &str, setup: Setup) {
    let ended = setup.start_and_end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    let errors: Vec<&str> = ended.log.lines().filter(|line| line.starts_with("<3>")).collect();
    assert!(!errors.is_empty(), "{}", ended.log);
    assert!(subject::is_foreign() || errors.iter().any(|line| line.contains(file)), "{}", ended.log);
}

//! Files of certificates.

use config_common::Acl;
use tempfile::TempDir;

use super::*;

fn allowed(id: &str) -> Allowed<String> {
    Acl::default().allow(0, id.to_owned()).unwrap()
}

fn store(dir: &TempDir, preloaded: &[(&str, &str)]) -> Store {
    let preloaded = preloaded.iter().map(|(id, place)| {
        let place = match place.strip_prefix('[') {
            Some(list) => {
                let members = list.trim_end_matches(']').split(',').filter(|member| !member.is_empty());
                Preloaded::Ids(members.map(str::to_owned).collect())
            }
            None => Preloaded::Uri(place.replace("DIR", dir.path().to_str().unwrap()).parse().unwrap()),
        };
        ((*id).to_owned(), place)
    });
    Store::new(&dir.path().join("home"), preloaded.collect())
}

#[test]
fn certs_16_17_file_names() {
    let check = |id: &str, expected: &str| assert_eq!(file_name(id).unwrap(), expected, "{id}");
    check("gateway-ca", "gatewayca-622d55e77b74525d2cfd5d2d55a420845d41e98dae8f52faf85725f0e05aef33.cer");
    check("plant/7 line?", "plant7line-c409f7e0ef54adb93052a9f8732220a43b7b8dea77cb774bc716b9a734800978.cer");
    check("日本", "-cf2abf0c5be326cb922a70f8163f91079c4d9aa8655c60ead89ad545c9de2e92.cer");
    check("", "-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.cer");
    assert_eq!(file_name(&"a".repeat(186)).unwrap().len(), 255);
    assert!(matches!(file_name(&"a".repeat(187)), Err(StoreError::IdTooLong(_))));
}

#[test]
fn what_is_written_is_read_until_it_is_deleted() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, &[]);
    assert_eq!(store.read("a").unwrap(), None);
    assert!(!dir.path().join("home").exists(), "reading makes no directory");
    store.write(&allowed("a"), "text").unwrap();
    assert_eq!(store.read("a").unwrap().as_deref(), Some("text"));
    let directory = dir.path().join("home/certs");
    let file = directory.join(file_name("a").unwrap());
    assert_eq!((mode_of(&directory), mode_of(&file)), (Some(0o700), Some(0o600)));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    store.write(&allowed("a"), "other").unwrap();
    assert_eq!(mode_of(&file), Some(0o644), "the mode of what exists is kept");
    store.delete(&allowed("a")).unwrap();
    store.delete(&allowed("a")).unwrap();
    assert_eq!(store.read("a").unwrap(), None);
}

#[test]
fn what_is_no_text_or_no_certificate() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, &[]);
    store.write(&allowed("a"), "").unwrap();
    assert_eq!(store.read("a").unwrap(), None, "an empty file is none");
    fs::write(dir.path().join("home/certs").join(file_name("a").unwrap()), [0x30, 0xff]).unwrap();
    assert!(matches!(store.read("a"), Err(StoreError::NotUtf8(_))));
}

#[test]
fn certs_46_48_preloaded_files() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a b.pem");
    let store = store(&dir, &[("a", "file://DIR/a%20b.pem"), ("host", "file://localhostDIR/a%20b.pem")]);
    assert_eq!(store.read("a").unwrap(), None);
    fs::write(&file, "one").unwrap();
    assert_eq!(store.read("a").unwrap().as_deref(), Some("one"));
    fs::write(&file, "# comment\ntwo").unwrap();
    assert_eq!(store.read("host").unwrap().as_deref(), Some("# comment\ntwo"));
    store.write(&allowed("a"), "three").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "three");
    assert!(!dir.path().join("home").exists());
    store.delete(&allowed("a")).unwrap();
    assert!(!file.exists());
}

#[test]
fn a_preloaded_symbolic_link_stays_one() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("target"), "one").unwrap();
    std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
    let store = store(&dir, &[("a", "file://DIR/link")]);
    store.write(&allowed("a"), "two").unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("target")).unwrap(), "two");
    assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
}

#[test]
fn certs_47_bundles() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("x.pem"), "X").unwrap();
    let store = store(
        &dir,
        &[
            ("x", "file://DIR/x.pem"),
            ("all", "[own,x,missing,x]"),
            ("nested", "[all,own]"),
            ("none", "[missing]"),
            ("empty", "[]"),
        ],
    );
    store.write(&allowed("own"), "OWN\n").unwrap();
    let check =
        |id: &str, expected: Option<&str>| assert_eq!(store.read(id).unwrap().as_deref(), expected, "{id}");
    check("all", Some("OWN\nX\nX"));
    check("nested", Some("OWN\nX\nX\nOWN\n"));
    check("none", None);
    check("empty", None);
    assert!(matches!(store.write(&allowed("all"), "x"), Err(StoreError::Bundle(_))));
    assert!(matches!(store.delete(&allowed("all")), Err(StoreError::Bundle(_))));
    assert_eq!(store.warnings().count(), 0);
}

#[test]
fn certs_49_what_cannot_be_used() {
    let dir = TempDir::new().unwrap();
    let places = [
        ("https", "https://host/a.pem"),
        ("host", "file://otherhost/a.pem"),
        ("self", "[self]"),
        ("one", "[two]"),
        ("two", "[one]"),
    ];
    let store = store(&dir, &places);
    for (id, _) in places {
        assert!(store.read(id).is_err(), "{id}");
    }
    assert_eq!(store.warnings().count(), places.len());
}

#[test]
fn certs_48_the_owner_of_a_preloaded_file_is_kept() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.pem");
    fs::write(&file, "one").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may.
    let _ = std::os::unix::fs::chown(&file, Some(1500), Some(1501));
    let owner = |path: &Path| fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
    let before = owner(&file);
    store(&dir, &[("a", "file://DIR/a.pem")]).write(&allowed("a"), "two").unwrap();
    assert_eq!((owner(&file), mode_of(&file)), (before, Some(0o640)));
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let store = store(&dir, &[("a", "file://DIR/pipe"), ("b", "file://DIR/")]);
    for id in ["a", "b"] {
        assert!(matches!(store.read(id), Err(StoreError::Unreadable { .. })), "{id}");
        assert!(matches!(store.write(&allowed(id), "x"), Err(StoreError::Unwritable { .. })), "{id}");
        assert!(matches!(store.check_writable(id), Err(StoreError::Unwritable { .. })), "{id}");
        assert!(matches!(store.delete(&allowed(id)), Err(StoreError::Unwritable { .. })), "{id}");
    }
    assert!(pipe.exists(), "what is not ours is not removed");
}

#[test]
fn what_cannot_be_kept_is_seen_before() {
    let dir = TempDir::new().unwrap();
    let places = [("file", "file://DIR/a.pem"), ("gone", "file://DIR/missing/a.pem"), ("list", "[file]")];
    let store = store(&dir, &places);
    fs::write(dir.path().join("a.pem"), "one").unwrap();
    for (id, is_good) in [
        ("own", true),
        ("file", true),
        ("file-temp", true),
        ("gone", false),
        // It would have to take the place of the other.
        ("gone-temp", false),
        ("list", false),
        ("list-temp", false),
    ] {
        assert_eq!(store.check_writable(id).is_ok(), is_good, "{id}");
        assert_eq!(store.write(&allowed(id), "one").is_ok(), is_good || id.ends_with("-temp"), "{id}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("a.pem")).unwrap(), "one");
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("home"), "in the way").unwrap();
    assert!(self::store(&home, &[]).check_writable("own").is_err());
}

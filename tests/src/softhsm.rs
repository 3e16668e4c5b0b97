//! Tokens in software (SoftHSM2), and OpenSC's tool to look into them. Does not know who uses them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::harness::Setup;

/// Tokens with a state of their own. They end with it.
#[derive(Debug)]
pub struct SoftHsm {
    directory: TempDir,
}

/// The label of a usual token.
pub const LABEL: &str = "sample";
/// Its PIN.
pub const PIN: &str = "4711";

impl SoftHsm {
    /// One token, [`LABEL`] with [`PIN`].
    #[track_caller]
    pub fn new() -> SoftHsm {
        let softhsm = SoftHsm::empty();
        softhsm.add(LABEL);
        softhsm
    }

    /// No token yet.
    #[track_caller]
    pub fn empty() -> SoftHsm {
        let directory = tempfile::Builder::new()
            .prefix("softhsm-")
            .tempdir()
            .expect("there is room in the temp directory");
        let softhsm = SoftHsm { directory };
        fs::create_dir(softhsm.tokens()).expect("the directory is ours");
        let config = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            softhsm.tokens().display()
        );
        fs::write(softhsm.config(), config).expect("the directory is ours");
        softhsm
    }

    /// Add a token with [`PIN`]. There may be several with one label.
    #[track_caller]
    pub fn add(&self, label: &str) {
        let pins = ["--so-pin", "987654", "--pin", PIN];
        let mut command = Command::new("softhsm2-util");
        command.args(["--init-token", "--free", "--label", label]).args(pins);
        let output = command.env("SOFTHSM2_CONF", self.config()).output();
        let output = output.expect("softhsm2-util is installed, see `make setup`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The library.
    pub fn library() -> &'static str {
        "/usr/lib/softhsm/libsofthsm2.so"
    }

    /// Settings that put OpenSC's spy before the library; it writes all calls to the file `PKCS11SPY_OUTPUT`.
    pub fn spy_settings() -> String {
        let places = fs::read_dir("/usr/lib").expect("there are libraries").filter_map(Result::ok);
        let mut places = places.map(|entry| entry.path().join("pkcs11/pkcs11-spy.so"));
        let spy = places.find(|path| path.exists()).expect("opensc is installed, see `make setup`");
        format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", spy.display())
    }

    /// Build a library of `source`, C code that has changed the functions of [`SoftHsm::library`]'s list: `softhsm()`
    /// gives it, with `function[n]` the nth one of `CK_FUNCTION_LIST`, from 0.
    #[track_caller]
    pub fn wrap(source: &str, library: &Path) {
        let path = library.with_extension("c");
        fs::write(&path, format!("{LIST}{source}")).expect("the directory is ours");
        let softhsm = format!("-DSOFTHSM=\"{}\"", SoftHsm::library());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", &softhsm, "-o"]).arg(library).arg(&path).arg("-ldl");
        let output = compiler.output().expect("cc is installed, see `make setup`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Where the tokens are.
    pub fn tokens(&self) -> PathBuf {
        self.directory.path().join("tokens")
    }

    /// The file that `SOFTHSM2_CONF` has to name.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("softhsm2.conf")
    }

    /// The URI of the token `label`.
    pub fn uri(label: &str) -> String {
        format!("pkcs11:token={label}?pin-value={PIN}")
    }

    /// `setup` with the library, and [`LABEL`] for new keys.
    pub fn base_slot(&self, setup: Setup) -> Setup {
        self.base_slot_at(setup, &SoftHsm::uri(LABEL))
    }

    /// `setup` with the library, and `uri` for new keys.
    pub fn base_slot_at(&self, setup: Setup, uri: &str) -> Setup {
        let toml = format!("[aziot_keys]\npkcs11_base_slot = '{uri}'\n");
        self.known_to(setup).drop_in("20-base-slot.toml", &toml)
    }

    /// `setup` with the library only.
    pub fn known_to(&self, setup: Setup) -> Setup {
        let toml = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", SoftHsm::library());
        setup.drop_in("20-library.toml", &toml).env("SOFTHSM2_CONF", self.config())
    }

    /// The number of the slot that [`LABEL`] is in.
    #[track_caller]
    pub fn slot_id(&self) -> u64 {
        let mut command = Command::new("softhsm2-util");
        let output = command.arg("--show-slots").env("SOFTHSM2_CONF", self.config()).output();
        let output = output.expect("softhsm2-util is installed, see `make setup`");
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = listed.lines().find_map(|line| line.strip_prefix("Slot ")?.parse().ok());
        number.expect("there is a slot")
    }

    /// What `pkcs11-tool ARGS` prints when logged in to [`LABEL`]; it must succeed.
    #[track_caller]
    pub fn tool(&self, args: &[&str]) -> String {
        let mut command = Command::new("pkcs11-tool");
        command.args(["--module", SoftHsm::library(), "--token-label", LABEL, "--login", "--pin", PIN]);
        let output = command.args(args).env("SOFTHSM2_CONF", self.config()).output();
        let output = output.expect("pkcs11-tool is installed, see `make setup`");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The objects on [`LABEL`]: `label: kind`, sorted, such as `est-id: Private Key Object; EC`.
    #[track_caller]
    pub fn objects(&self) -> Vec<String> {
        let listed = self.tool(&["--list-objects"]);
        let mut objects = Vec::new();
        let mut kind = "";
        for line in listed.lines() {
            match line.trim().split_once("label:") {
                Some((_, label)) => objects.push(format!("{}: {kind}", label.trim())),
                None if line.contains("Object; ") => kind = line.trim(),
                None => {}
            }
        }
        objects.sort();
        objects
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}

const LIST: &str = r#"
#include <dlfcn.h>

typedef unsigned long ul;
struct list { unsigned char version[2]; void *function[68]; };

static struct list *softhsm(void) {
    void *library = dlopen(SOFTHSM, RTLD_NOW);
    ul (*get)(struct list **) = dlsym(library, "C_GetFunctionList");
    struct list *list;
    get(&list);
    return list;
}
"#;

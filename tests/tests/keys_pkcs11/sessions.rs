//! A token that has fewer sessions than it says: requests wait for those that there are.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use suite_tests::{
    harness::{KEYD, Setup},
    keys::{Keys, ecdsa_request},
    softhsm::SoftHsm,
};

#[test]
fn keys_need_20_requests_wait_for_the_sessions_that_a_token_has() {
    let token = SoftHsm::new();
    let setup = token.base_slot(Setup::new(&KEYD));
    let (library, refusals) = (setup.directory().join("few.so"), setup.directory().join("refusals"));
    build(&library);
    let few = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", library.display());
    let keyd = setup.drop_in("60-few.toml", &few).env("REFUSALS", &refusals).start();
    let client = keyd.client();
    let request = ecdsa_request(&client.create_pair("pair", "ec-p256"), &[1; 32]);
    for _ in 0..2 {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..10).for_each(|_| drop(client.post("/sign", &request).expect(200))));
            }
        });
        thread::sleep(Duration::from_millis(20));
    }
    let refused = fs::read_to_string(&refusals).unwrap().len();
    assert!((1..=2).contains(&refused), "{refused}: what was refused is not asked for again");
}

/// SoftHSM2 with no more than two sessions, in which signing takes a while.
#[track_caller]
fn build(library: &Path) {
    let source = library.with_extension("c");
    fs::write(&source, SOURCE).unwrap();
    let softhsm = format!("-DSOFTHSM=\"{}\"", SoftHsm::library());
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", &softhsm, "-o"]).arg(library).arg(&source).arg("-ldl");
    let output = compiler.output().expect("cc is installed, see `make setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The numbers are those of the functions in `CK_FUNCTION_LIST`; 0xB1 is `CKR_SESSION_COUNT`.
const SOURCE: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef unsigned long ul;
struct list { unsigned char version[2]; void *function[68]; };

static struct list list;
static ul (*open_session)(ul, ul, void *, void *, ul *);
static ul (*close_session)(ul);
static ul (*sign)(ul, void *, ul, void *, ul *);
static int sessions;

static ul open_few(ul slot, ul flags, void *application, void *notify, ul *session) {
    if (__sync_add_and_fetch(&sessions, 1) > 2) {
        FILE *file = fopen(getenv("REFUSALS"), "a");
        fputc('x', file);
        fclose(file);
        __sync_sub_and_fetch(&sessions, 1);
        return 0xB1;
    }
    return open_session(slot, flags, application, notify, session);
}

static ul close_one(ul session) {
    __sync_sub_and_fetch(&sessions, 1);
    return close_session(session);
}

static ul sign_slowly(ul session, void *data, ul length, void *signature, ul *size) {
    usleep(5000);
    return sign(session, data, length, signature, size);
}

ul C_GetFunctionList(struct list **out) {
    void *library = dlopen(SOFTHSM, RTLD_NOW);
    ul (*get)(struct list **) = dlsym(library, "C_GetFunctionList");
    struct list *real;
    get(&real);
    list = *real;
    open_session = list.function[12];
    close_session = list.function[13];
    sign = list.function[43];
    list.function[12] = open_few;
    list.function[13] = close_one;
    list.function[43] = sign_slowly;
    *out = &list;
    return 0;
}
"#;

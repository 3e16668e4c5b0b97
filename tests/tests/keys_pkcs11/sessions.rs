//! A token that has fewer sessions than it says: requests wait for those that there are.

use std::{fs, thread, time::Duration};

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
    SoftHsm::wrap(SOURCE, &library);
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

/// SoftHSM2 with no more than two sessions, in which signing takes a while. 0xB1 is `CKR_SESSION_COUNT`.
const SOURCE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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
    list = *softhsm();
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

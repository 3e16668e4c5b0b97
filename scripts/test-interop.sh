#!/usr/bin/env bash
# Lets certd enrol at an EST server that is not ours: the crate `est-ca`, behind nginx, which speaks TLS for it. First with
# user and password, then with an identity of its own that is renewed. openssl judges the certificates.
# Takes some minutes the first time; the server is built in target/interop.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

readonly VERSION='=0.2.0'
readonly PLACE="$PWD/target/interop/est-ca-server"
readonly BIN="$PWD/target/debug"
# How long certificates live, in seconds; at half of it the identity is renewed.
readonly LIFE=40
readonly BOUND=120

main() {
    cargo build --locked --bins --lib -p aziot-keyd -p aziot-certd -p key-engine -p aziot-openssl-provider
    build_server
    open_stage
    make_authority
    start_server
    for algorithm in ec-p256 rsa-2048; do
        enrol_with_password "$algorithm"
        enrol_and_renew_identity "$algorithm"
    done
    printf '\nWhat the server was asked, and what it answered:\n'
    sort "$D/access.log" | uniq -c
    printf '\ncertd and est-ca %s understand each other.\n' "${VERSION#=}"
}

# --- the server ----------------------------------------------------------------------------------------------------------

# The crate is a library without TLS: it needs a program, and to be told whose certificate the client has shown.
build_server() {
    mkdir -p "$PLACE/src"
    cat >"$PLACE/Cargo.toml" <<END
[workspace]
[package]
name = "est-ca-server"
version = "0.0.0"
edition = "2021"
[dependencies]
est-ca = { version = "$VERSION", features = ["full"] }
axum = "0.6"
tokio = { version = "1", features = ["net", "rt-multi-thread"] }
END
    cat >"$PLACE/src/main.rs" <<'END'
use std::{env, error::Error, sync::Arc, time::Duration};

use axum::{body::Body, http::Request, middleware};
use est_ca::auth::{AuthBackend, Principal};
use est_ca::ca::{CertProfile, Issuer, serial::InMemorySerialStore};
use est_ca::est::server::EstServer;

struct Password;

impl AuthBackend for Password {
    fn verify_bootstrap(&self, user: &str, password: &str) -> Result<Principal, String> {
        match (user, password) {
            ("device", "word") => Ok(Principal::new(user)),
            _ => Err("wrong user or password".to_owned()),
        }
    }
}

// Only nginx can set this header: it has verified the certificate.
fn note_client(request: &mut Request<Body>) {
    let name = request.headers().get("x-client-name").and_then(|name| name.to_str().ok()).map(str::to_owned);
    if let Some(name) = name {
        request.extensions_mut().insert(Principal::new(name));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, certificate, key, life] = arguments.as_slice() else { return Err("ADDRESS CERT KEY LIFE".into()) };
    let profile = CertProfile { validity: Duration::from_secs(life.parse()?), ..CertProfile::default() };
    let issuer = Issuer::load_pem(certificate, key, profile, Arc::new(InMemorySerialStore::new()))?;
    let router = EstServer::new(issuer, Arc::new(Password)).router();
    let router = router.layer(middleware::from_fn(|mut request: Request<Body>, next: middleware::Next<Body>| async move {
        note_client(&mut request);
        next.run(request).await
    }));
    tokio::runtime::Runtime::new()?.block_on(async {
        axum::Server::bind(&address.parse()?).serve(router.into_make_service()).await?;
        Ok(())
    })
}
END
    cargo build --manifest-path "$PLACE/Cargo.toml" --target-dir "$PLACE/target"
}

# A root, a certificate of the server, and one that a factory gave the device.
make_authority() {
    cd "$D"
    printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n' >root.ext
    printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n' >server.ext
    printf 'extendedKeyUsage=clientAuth\n' >factory.ext
    local name
    for name in root server factory; do
        new_key ec-p256 "$name.key"
        openssl req -new -key "$name.key" -subj "/CN=interop $name" -out "$name.csr"
        if [[ $name == root ]]; then
            openssl x509 -req -in root.csr -signkey root.key -extfile root.ext -days 2 -out root.pem
        else
            openssl x509 -req -in "$name.csr" -CA root.pem -CAkey root.key -CAcreateserial \
                -extfile "$name.ext" -days 2 -out "$name.pem"
        fi
    done
    cd - >/dev/null
}

# A key of the kind $1 in the file $2.
new_key() {
    case $1 in
        ec-p256) openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$2" ;;
        rsa-2048) openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$2" 2>"$D/genpkey.log" ;;
    esac
}

start_server() {
    local inner outer
    inner=$(free_port)
    run est-ca "$PLACE/target/debug/est-ca-server" "127.0.0.1:$inner" "$D/root.pem" "$D/root.key" "$LIFE"
    wait_until 'the server listens' is_open "$inner"
    outer=$(free_port)
    cat >"$D/nginx.conf" <<END
daemon off; pid $D/nginx.pid; error_log $D/nginx.log notice; events {}
http {
  log_format asked '\$request_uri \$status client:\$client_name';
  access_log $D/access.log asked;
  map \$ssl_client_s_dn \$client_name { ~CN=(?<cn>[^,]+) \$cn; default ''; }
  client_body_temp_path $D/a; proxy_temp_path $D/b; fastcgi_temp_path $D/c; uwsgi_temp_path $D/d; scgi_temp_path $D/e;
  server {
    listen 127.0.0.1:$outer ssl; ssl_certificate $D/server.pem; ssl_certificate_key $D/server.key;
    ssl_client_certificate $D/root.pem; ssl_verify_client optional;
    location / { proxy_pass http://127.0.0.1:$inner; proxy_set_header X-Client-Name \$client_name; }
  }
}
END
    run nginx nginx -e "$D/nginx.log" -c "$D/nginx.conf"
    wait_until 'nginx listens' is_open "$outer"
    URL="https://localhost:$outer/.well-known/est"
    curl --silent --show-error --fail --cacert "$D/root.pem" --output "$D/cacerts.b64" "$URL/cacerts"
    openssl base64 -d -A -in "$D/cacerts.b64" | openssl pkcs7 -inform DER -print_certs | grep -q 'CN *= *interop root'
}

# --- the journeys --------------------------------------------------------------------------------------------------------

# $1: the kind of key.
enrol_with_password() {
    printf '\n== %s: user and password\n' "$1"
    start_daemons 'username = "device"' 'password = "word"'
    new_key "$1" "$D/press.key"
    issue press 201
    openssl pkey -in "$D/press.key" -pubout -out "$D/press.pub"
    judge press "$D/press.pub"
    stop certd keyd

    printf '\n== %s: a wrong password\n' "$1"
    start_daemons 'username = "device"' 'password = "swordfish"'
    issue press 500
    wait_until 'the log says why' grep -q 403 "$D/certd.log"
    stop certd keyd
}

# est-ca wants the password for each `simpleenroll`, with or without a certificate. `simplereenroll` counts on the
# certificate alone.
enrol_and_renew_identity() {
    printf '\n== %s: an identity, and its renewal\n' "$1"
    start_daemons 'username = "device"' 'password = "word"' 'bootstrap_identity_cert = "factory"' \
        'bootstrap_identity_pk = "factory"' 'identity_cert = "est-id"' 'identity_pk = "est-id"' \
        "identity_key_algorithm = \"$1\"" \
        'identity_auto_renew = { rotate_key = true, threshold = "50%", retry = "10%" }'
    issue press 201
    fetch est-id
    mv "$D/est-id.pem" "$D/first.pem"
    local renewals
    renewals=$(renewals_so_far)
    wait_until 'the identity is renewed' is_renewed
    (($(renewals_so_far) > renewals)) || fail 'it was not renewed by simplereenroll'
    public_key est-id
    judge est-id "$D/est-id.pub"
    # The new identity is good for the next request.
    issue press 201
    stop certd keyd
}

renewals_so_far() {
    grep -c 'simplereenroll 200 client:device' "$D/access.log" || true
}

is_renewed() {
    fetch est-id && ! cmp -s "$D/est-id.pem" "$D/first.pem" && ! cmp -s <(public_of first) <(public_of est-id)
}

public_of() {
    openssl x509 -in "$D/$1.pem" -noout -pubkey
}

# The certificate $1 is of the authority, for the public key in the file $2 and for the user that the server has let in.
judge() {
    openssl verify -CAfile "$D/root.pem" -purpose sslclient "$D/$1.pem"
    cmp <(public_of "$1") "$2" || fail "the certificate $1 is for another key"
    openssl x509 -in "$D/$1.pem" -noout -subject | grep -q 'CN *= *device$' || fail "the certificate $1 is for somebody else"
    (($(grep -c 'BEGIN CERTIFICATE' "$D/$1.pem") == 2)) || fail "the root of /cacerts is not in the chain of $1"
}

# --- the daemons ---------------------------------------------------------------------------------------------------------

# New ones, with these lines in [cert_issuance.est].
start_daemons() {
    rm -rf "$D"/{keyd,certd}
    mkdir "$D"/{keyd,certd}
    cat >"$D/keyd.toml" <<END
[aziot_keys]
homedir_path = "$D/keyd"
[preloaded_keys]
factory = "file://$D/factory.key"
[endpoints]
aziot_keyd = "unix://$D/keyd.sock"
END
    cat >"$D/certd.toml" <<END
homedir_path = "$D/certd"
[cert_issuance]
press = { method = "est" }
[cert_issuance.est]
trusted_certs = ["root"]
$(printf '%s\n' "$@")
[cert_issuance.est.urls]
default = "$URL"
[preloaded_certs]
root = "file://$D/root.pem"
factory = "file://$D/factory.pem"
[[principal]]
uid = $UID
certs = ["press"]
[endpoints]
aziot_keyd = "unix://$D/keyd.sock"
aziot_certd = "unix://$D/certd.sock"
END
    local name
    for name in keyd certd; do
        run "$name" env "AZIOT_${name^^}_CONFIG=$D/$name.toml" "AZIOT_${name^^}_CONFIG_DIR=$D/none" "$BIN/aziot-$name"
        wait_until "$name listens" listens "$name"
    done
}

listens() {
    [[ -S $D/$1.sock ]] && curl --silent --max-time 5 --output /dev/null --unix-socket "$D/$1.sock" http://localhost/
}

# Asks certd for the certificate $1 for the key of this name; the status must be $2.
issue() {
    local csr status
    csr=$(openssl req -new -key "$D/$1.key" -subj '/CN=device' | sed ':all;N;$!b all;s/\n/\\n/g')
    status=$(ask certd --write-out '%{http_code}' --data "{\"certId\":\"$1\",\"csr\":\"$csr\\n\"}" /certificates)
    [[ $status == "$2" ]] || fail "the request for $1 was answered $status: $(<"$D/answer")"
    if [[ $status == 201 ]]; then
        fetch "$1"
    fi
}

# The certificate $1, into a file of its name.
fetch() {
    ask certd --fail "/certificates/$1"
    printf '%b' "$(grep -o '"pem":"[^"]*"' "$D/answer" | cut -d '"' -f 4)" >"$D/$1.pem"
}

# The public half of the key pair $1 in keyd, into a file of its name.
public_key() {
    "$BIN/aziot-key-ref" --socket "unix://$D/keyd.sock" --out "$D/$1.ref" "$1"
    OPENSSL_CONF=$D/openssl.cnf openssl pkey -in "$D/$1.ref" -pubout -out "$D/$1.pub"
}

# ask DAEMON CURL-OPTION… PATH; the answer is in a file.
ask() {
    local daemon=$1 path=${*: -1}
    shift
    curl --silent --max-time 60 --output "$D/answer" --unix-socket "$D/$daemon.sock" --header content-type:application/json \
        "${@:1:$#-1}" "http://localhost$path?api-version=2020-09-01"
}

# --- before and after ----------------------------------------------------------------------------------------------------

open_stage() {
    D=$(mktemp -d "${TMPDIR:-/tmp}/aziot-interop.XXXXXX")
    declare -gA PIDS=()
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP
    cat >"$D/openssl.cnf" <<END
openssl_conf = init
[init]
providers = list
[list]
default = others
aziot = own
[others]
activate = 1
[own]
activate = 1
module = $BIN/libaziot.so
socket = unix://$D/keyd.sock
END
}

clean_up() {
    stop "${!PIDS[@]}"
    rm -rf "$D"
}

run() {
    local name=$1
    shift
    "$@" >"$D/$name.log" 2>&1 &
    PIDS[$name]=$!
}

stop() {
    local name
    for name in "$@"; do
        kill "${PIDS[$name]}" 2>/dev/null || true
        wait "${PIDS[$name]}" 2>/dev/null || true
        unset "PIDS[$name]"
    done
}

# wait_until WHAT COMMAND…
wait_until() {
    local what=$1 end=$((SECONDS + BOUND))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < end)) || fail "in vain: $what"
        sleep 0.2
    done
}

fail() {
    printf '\nFAILED: %s\n' "$1" >&2
    tail -n 20 "$D"/*.log >&2
    exit 1
}

is_open() {
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)) && is_open "$port"; do :; done
    printf '%s' "$port"
}

main

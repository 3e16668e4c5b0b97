#!/usr/bin/env bash
# README's first command: provisions a device on this machine against a simulated cloud and says what happens.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/demo.sh [--once] [--help]

Builds the suite, starts a simulated cloud, aziot-keyd and aziot-identityd in a temporary directory, provisions a
device, makes a module, signs a token with the module's key and shows it to the hub. Needs no root and no account.

  --once        end after the last step instead of waiting for Ctrl-C (also without a terminal)

  DEMO_ONCE=1        the same as --once
  AZIOT_BIN_DIR=DIR  use the programs in DIR instead of building them
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
readonly JSON=content-type:application/json
readonly DEVICE=demo-device MODULE=demo-module
readonly KEYS_VERSION=2021-05-01 IDENTITIES_VERSION=2022-08-01

main() {
    local once=${DEMO_ONCE:-}
    case "${1:-}" in
        '') ;;
        --once) once=1 ;;
        -h | --help) usage && return ;;
        *) usage >&2 && return 2 ;;
    esac
    prepare
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    start_cloud
    start_keyd
    start_identityd
    make_module
    sign_token
    show_token_to_hub
    what_next
    if [[ -z $once && -t 0 && -t 1 ]]; then
        printf '\nEverything keeps running until you press Ctrl-C.\n'
        sleep infinity &
        wait $!
    fi
}

# --- the steps -------------------------------------------------------------------------------------------------------

prepare() {
    if [[ -n ${AZIOT_BIN_DIR:-} ]]; then
        BIN=$AZIOT_BIN_DIR
    else
        "$ROOT/scripts/setup.sh" demo
        export PATH="$PATH:$HOME/.cargo/bin"
        step 'Build the programs (the first time this takes some minutes)'
        (cd "$ROOT" && cargo build --locked --bins \
            --package aziot-keyd --package aziot-identityd --package aziot-cloud-sim)
        BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug
    fi
    umask 077
    D=$(mktemp -d "${TMPDIR:-/tmp}/aziot-demo.XXXXXX")
    mkdir "$D"/{cloud,keyd,identityd,none}
    PIDS=()
}

start_cloud() {
    say "Everything is in a directory of its own: D=$D"
    step 'A cloud: a Device Provisioning Service and an IoT Hub, simulated on this machine, with real TLS'
    run cloud aziot-cloud-sim --dir "$D/cloud"
    wait_until 'the cloud is ready' test -s "$D/cloud/ready.json"
    local ready
    ready=$(<"$D/cloud/ready.json")
    DPS=$(member dps <<<"$ready")
    SCOPE=$(member scope <<<"$ready")
    ADMIN=$(member admin <<<"$ready")
    say "It serves at $DPS, with the id scope $SCOPE."
    say "An operator enrols the device \"$DEVICE\" and gets its key:"
    local key
    key=$("$BIN/aziot-cloud-sim" enroll --admin "$ADMIN" --registration-id "$DEVICE")
    base64 -d <<<"$key" >"$D/device-id"
    say "  ${key:0:6}… (in base64; $(wc -c <"$D/device-id") bytes)"
}

start_keyd() {
    step 'aziot-keyd: the only program that reads that key'
    cat >"$D/keyd.toml" <<END
[aziot_keys]
homedir_path = "$D/keyd"

[preloaded_keys]
device-id = "file://$D/device-id"

# Who may name these keys. Here everything runs as you; on a device identityd has a user of its own.
[[principal]]
uid = $UID
keys = ["aziot_identityd_master_id", "device-id"]

[endpoints]
aziot_keyd = "unix://$D/keyd.sock"
END
    say "Its configuration is $D/keyd.toml."
    run keyd env AZIOT_KEYD_CONFIG="$D/keyd.toml" AZIOT_KEYD_CONFIG_DIR="$D/none" aziot-keyd
    wait_until 'keyd listens' test -S "$D/keyd.sock"
}

start_identityd() {
    step 'aziot-identityd: registers the device, then answers who it is'
    cat >"$D/identityd.toml" <<END
hostname = "demo"
homedir = "$D/identityd"

[provisioning]
source = "dps"
global_endpoint = "$DPS"
scope_id = "$SCOPE"

[provisioning.attestation]
method = "symmetric_key"
registration_id = "$DEVICE"
symmetric_key = "device-id"

# A principal without idtype may manage all identities: here you.
[[principal]]
uid = $UID
name = "demo"

[endpoints]
aziot_keyd = "unix://$D/keyd.sock"
aziot_identityd = "unix://$D/identityd.sock"
END
    say "Its configuration is $D/identityd.toml."
    # The cloud's certificate is from an authority of its own, and no proxy leads to this machine.
    run identityd env -u HTTPS_PROXY -u https_proxy SSL_CERT_FILE="$D/cloud/ca.pem" \
        AZIOT_IDENTITYD_CONFIG="$D/identityd.toml" AZIOT_IDENTITYD_CONFIG_DIR="$D/none" aziot-identityd
    wait_until 'identityd listens' test -S "$D/identityd.sock"
    say 'It serves at once and registers with DPS in the background, which takes some seconds.'
    wait_until 'the device is provisioned' is_provisioned
    ask identityd POST /identities/device '{"type":"aziot"}'
    HUB=$(member hubName <<<"$REPLY")
    say "DPS has assigned the device to the hub $HUB."
}

make_module() {
    step 'A module: an identity of its own for one program on the device'
    ask identityd POST /identities/modules "{\"type\":\"aziot\",\"moduleId\":\"$MODULE\"}"
    say 'identityd has put the module into the registry of the hub, with keys that keyd derived.'
    say 'Any time later the program gets its identity by asking:'
    ask identityd GET "/identities/modules/$MODULE?type=aziot"
    HANDLE=$(member keyHandle <<<"$REPLY")
    say 'keyHandle stands for the key. The key itself stays in keyd.'
}

sign_token() {
    step 'A token: keyd signs with the key that the handle stands for'
    RESOURCE=$(encode "$HUB/devices/$DEVICE/modules/$MODULE")
    local expiry message
    expiry=$(($(date +%s) + 3600))
    message=$(printf '%s\n%s' "$RESOURCE" "$expiry" | base64 -w 0)
    say "The text to be signed is the module's address at the hub and a time, one hour from now."
    ask keyd POST /sign \
        "{\"keyHandle\":\"$HANDLE\",\"algorithm\":\"HMAC-SHA256\",\"parameters\":{\"message\":\"$message\"}}"
    TOKEN="SharedAccessSignature sr=$RESOURCE&sig=$(encode "$(member signature <<<"$REPLY")")&se=$expiry"
}

show_token_to_hub() {
    step 'The proof: the module sends a message to the hub, with that token'
    local url status
    url="https://$HUB/devices/$DEVICE/modules/$MODULE/messages/events?api-version=2020-03-13"
    printf '%s\n' "$TOKEN" >"$D/token"
    show "curl --cacert \$D/cloud/ca.pem -H \"Authorization: \$(cat \$D/token)\" -d '{\"temperature\":21}' '$url'"
    status=$(curl --silent --show-error --noproxy '*' --max-time 30 --cacert "$D/cloud/ca.pem" --output "$D/answer" \
        --write-out '%{http_code}' --header "Authorization: $TOKEN" --data '{"temperature":21}' "$url")
    if [[ $status != 204 ]]; then
        fail "the hub answered $status: $(<"$D/answer")"
    fi
    say 'The hub answers 204: it has checked the signature with the key in its registry. Done.'
    say 'The program that sent the message has never seen a key.'
}

what_next() {
    step 'Try it yourself, in another terminal'
    cat <<END
    D=$D
    # who is this device, and how was it provisioned?
    curl --unix-socket \$D/identityd.sock 'http://identityd.sock/identities/provisioning?api-version=$IDENTITIES_VERSION'
    # which modules does it have?
    curl --unix-socket \$D/identityd.sock 'http://identityd.sock/identities/modules?api-version=$IDENTITIES_VERSION&type=aziot'
    # ask for a key that no principal names, and read why not
    curl --unix-socket \$D/keyd.sock -H $JSON -d '{"keyId":"other","usage":"sign"}' 'http://keyd.sock/key?api-version=$KEYS_VERSION'
    # register again (answers with nothing: 204)
    curl --unix-socket \$D/identityd.sock -X POST 'http://identityd.sock/identities/device/reprovision?api-version=$IDENTITIES_VERSION'
    # what the cloud has seen and decided
    curl $ADMIN/log
    # what the daemons say
    tail \$D/keyd.log \$D/identityd.log

    docs/api/README.md lists the endpoints, docs/errors.md says what a refusal means.
END
    if ((UID == 0)); then
        printf '    (You are root, who may use any key: the third line is not refused.)\n'
    fi
}

# --- how they are shown ------------------------------------------------------------------------------------------------

STEPS=0

step() {
    STEPS=$((STEPS + 1))
    printf '\n%d. %s\n' "$STEPS" "$1"
}

say() {
    printf '   %s\n' "$1"
}

show() {
    printf '   $ %s\n' "$1"
}

# Asks a daemon and shows question and answer: ask DAEMON METHOD PATH [BODY]. Leaves the answer in REPLY.
ask() {
    local daemon=$1 method=$2 path=$3 body=${4:-}
    local version=$IDENTITIES_VERSION separator='?'
    if [[ $daemon == keyd ]]; then version=$KEYS_VERSION; fi
    if [[ $path == *\?* ]]; then separator='&'; fi
    local url="http://$daemon.sock$path${separator}api-version=$version"
    local command=(curl --silent --show-error --max-time 60 --unix-socket "$D/$daemon.sock" --request "$method")
    local shown="curl --unix-socket \$D/$daemon.sock"
    if [[ $method != GET ]]; then
        command+=(--header "$JSON" --data "$body")
        shown+=" -H $JSON -d '$(shorten "$body")'"
    fi
    show "$shown '$url'"
    local status
    status=$("${command[@]}" --output "$D/answer" --write-out '%{http_code}' "$url")
    REPLY=$(<"$D/answer")
    if [[ $status != 200 && $status != 204 ]]; then
        fail "$daemon answered $status: $REPLY"
    fi
    say "$(shorten "$REPLY")"
}

# Handles and other long texts in JSON, cut.
shorten() {
    sed -E 's/"([^"]{24})[^"]{30,}"/"\1…"/g' <<<"$1"
}

# --- processes ---------------------------------------------------------------------------------------------------------

# Starts a program in the background: run NAME [env …] PROGRAM ARGUMENTS…; its log is NAME.log.
run() {
    local name=$1
    shift
    PATH="$BIN:$PATH" "$@" </dev/null >"$D/$name.log" 2>&1 &
    PIDS+=("$!")
}

# Waits for a command to succeed: wait_until WHAT COMMAND…
wait_until() {
    local what=$1 tries
    shift
    for ((tries = 0; tries < 600; tries++)); do
        if "$@"; then
            return
        fi
        for pid in "${PIDS[@]}"; do
            kill -0 "$pid" 2>/dev/null || fail "a program has ended before $what"
        done
        sleep 0.1
    done
    fail "waited for a minute until $what"
}

is_provisioned() {
    local url="http://identityd.sock/identities/device?api-version=$IDENTITIES_VERSION" status
    status=$(curl --silent --max-time 60 --unix-socket "$D/identityd.sock" --output "$D/answer" \
        --write-out '%{http_code}' --header "$JSON" --data '{"type":"aziot"}' "$url") || true
    [[ $status == 200 ]]
}

fail() {
    printf '\nThe demonstration has failed: %s\n' "$1" >&2
    tail -n 20 "$D"/*.log >&2
    exit 1
}

clean_up() {
    if ((${#PIDS[@]} > 0)); then
        kill "${PIDS[@]}" 2>/dev/null || true
        wait "${PIDS[@]}" 2>/dev/null || true
    fi
    rm -rf "$D"
}

# --- texts -------------------------------------------------------------------------------------------------------------

# The text of a member of the JSON on standard input, wherever it stands; for texts without quotes in them.
member() {
    grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | sed 's/^[^:]*: *"\(.*\)"$/\1/'
}

# Percent-encoding of all but letters, digits, `-`, `.`, `_` and `~`.
encode() {
    local LC_ALL=C text=$1 encoded='' at char
    for ((at = 0; at < ${#text}; at++)); do
        char=${text:at:1}
        case $char in
            [a-zA-Z0-9._~-]) encoded+=$char ;;
            *) encoded+=$(printf '%%%02X' "'$char") ;;
        esac
    done
    printf '%s' "$encoded"
}

main "$@"

# shellcheck shell=bash
# What the acts of the demonstration share: the cloud, the daemons, how they are asked and shown, and the end.
# Knows no act.

readonly JSON=content-type:application/json
readonly KEYS_VERSION=2021-05-01 IDENTITIES_VERSION=2022-08-01 COMMON_VERSION=2020-09-01
readonly DEVICE=demo-device MODULE=demo-module

# --- before and after ----------------------------------------------------------------------------------------------------

# Finds or builds what is run, and makes the directory for all the rest: open_stage SETUP PROGRAM…
open_stage() {
    local needs=$1
    shift
    if [[ -n ${AZIOT_BIN_DIR:-} ]]; then
        BIN=$(cd "$AZIOT_BIN_DIR" && pwd)
    else
        "$ROOT/scripts/setup.sh" "$needs"
        export PATH="$PATH:$HOME/.cargo/bin"
        step 'Build the programs (the first time this takes some minutes)'
        build "$@"
        BIN=${CARGO_TARGET_DIR:-$ROOT/target}/debug
    fi
    local file
    for file in "$@"; do
        if [[ ! -e $BIN/$file ]]; then
            printf 'There is no %s in %s.\n' "$file" "$BIN" >&2
            return 1
        fi
    done
    unset HTTPS_PROXY https_proxy ALL_PROXY all_proxy # no proxy leads to this machine
    umask 077
    D=$(mktemp -d "${TMPDIR:-/tmp}/aziot-demo.XXXXXX")
    declare -gA PIDS=()
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir "$D"/{cloud,keyd,certd,identityd,tpm} "$D"/{keyd,certd,identityd,tpmd}.d
    say "Everything is in a directory of its own: D=$D"
}

build() {
    local file packages=()
    for file in "$@"; do
        case $file in
            libaziot.so) packages+=(--package aziot-openssl-provider) ;;
            aziot-key-ref) packages+=(--package key-engine) ;;
            *) packages+=(--package "$file") ;;
        esac
    done
    (cd "$ROOT" && cargo build --locked --lib --bins "${packages[@]}")
}

clean_up() {
    trap '' HUP INT TERM
    if ((${#PIDS[@]} > 0)); then
        kill "${PIDS[@]}" 2>/dev/null || true
        wait "${PIDS[@]}" 2>/dev/null || true
    fi
    rm -rf "$D"
}

fail() {
    printf '\nThe demonstration has failed: %s\n' "$1" >&2
    tail -n 20 "$D"/*.log >&2
    exit 1
}

# What to try while everything runs: what_next FUNCTION…, which print lines.
what_next() {
    step 'Try it yourself, in another terminal'
    printf '    D=%s\n' "$D"
    local lines
    for lines in "$@"; do
        "$lines"
    done
    cat <<END
    # what the cloud has seen and decided
    curl $ADMIN/log
    # what the daemons say
    tail \$D/*d.log

    docs/api/README.md lists the endpoints, docs/errors.md says what a refusal means.
END
}

# --- how it is shown -----------------------------------------------------------------------------------------------------

STEPS=0

act() {
    printf '\n=== %s\n' "$1"
}

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

# JSON from standard input, its handles and other long texts cut.
shorten() {
    sed -E 's/"([^"]{24})[^"]{30,}"/"\1…"/g'
}

# --- the cloud -----------------------------------------------------------------------------------------------------------

start_cloud() {
    step 'A cloud: a Device Provisioning Service and an IoT Hub, simulated on this machine, with real TLS'
    run cloud aziot-cloud-sim --dir "$D/cloud" --est
    wait_until 'the cloud is ready' test -s "$D/cloud/ready.json"
    local ready
    ready=$(<"$D/cloud/ready.json")
    DPS=$(member dps <<<"$ready")
    SCOPE=$(member scope <<<"$ready")
    EST=$(member est <<<"$ready")
    ADMIN=$(member admin <<<"$ready")
    say "It serves at $DPS, with the id scope $SCOPE."
}

# What an operator does in the cloud: operate METHOD PATH [BODY]. Leaves the answer in REPLY.
operate() {
    local method=$1 path=$2 body=${3:-}
    local shown="curl -X $method $ADMIN$path" status
    if [[ -n $body ]]; then
        shown+=" -d '$(shorten <<<"$body")'"
    fi
    show "$shown"
    status=$(curl --silent --show-error --max-time 60 --request "$method" --data "$body" --output "$D/answer" \
        --write-out '%{http_code}' "$ADMIN$path")
    REPLY=$(<"$D/answer")
    if [[ $status != 20[0-4] ]]; then
        fail "the cloud's operator is answered $status: $REPLY"
    fi
}

# Sends an event to the hub, which must take it: send_event ADDRESS OPTIONS-AS-SHOWN CURL-OPTION…
send_event() {
    local address=$1 shown=$2 url status
    shift 2
    url="https://$HUB/$address/messages/events?api-version=2020-03-13"
    show "curl --cacert \$D/cloud/ca.pem $shown -d '{\"temperature\":21}' '$url'"
    status=$(curl --silent --show-error --max-time 30 --cacert "$D/cloud/ca.pem" --output "$D/answer" \
        --write-out '%{http_code}' --data '{"temperature":21}' "$@" "$url")
    if [[ $status != 204 ]]; then
        fail "the hub answered $status: $(<"$D/answer")"
    fi
}

# The same with the token in $D/token.
send_event_with_token() {
    send_event "$1" "-H \"Authorization: \$(cat \$D/token)\"" --header "Authorization: $(<"$D/token")"
}

# --- the daemons ---------------------------------------------------------------------------------------------------------

# Starts a daemon with NAME.toml and NAME.d: start NAME [ENVIRONMENT…]
start() {
    local name=$1
    shift
    say "Its configuration is $D/$name.toml."
    run "$name" env "AZIOT_${name^^}_CONFIG=$D/$name.toml" "AZIOT_${name^^}_CONFIG_DIR=$D/$name.d" "$@" "aziot-$name"
    wait_until "$name listens" listens "$name"
}

start_identityd() {
    # The cloud's certificate is from an authority of its own.
    start identityd SSL_CERT_FILE="$D/cloud/ca.pem"
    say 'It serves at once and registers with DPS in the background, which takes some seconds.'
}

# Waits until the device has its hub, and shows who it is.
show_device() {
    wait_until 'the device is provisioned' is_provisioned
    ask identityd POST /identities/device '{"type":"aziot"}'
    HUB=$(member hubName <<<"$REPLY")
    say "DPS has assigned the device to the hub $HUB."
}

# The configuration of identityd, for a device that attests as the rest of the table says.
configure_identityd() {
    cat >"$D/identityd.toml" <<END
hostname = "demo"
homedir = "$D/identityd"

[provisioning]
source = "dps"
global_endpoint = "$DPS"
scope_id = "$SCOPE"

[provisioning.attestation]
$1

# A principal without idtype may manage all identities: here you.
[[principal]]
uid = $UID
name = "demo"

# What certificates of local identities end with: NAME.demo.plant.example.
[localid]
domain = "plant.example"
key_algorithm = "ec-p256"

$(endpoints keyd certd identityd tpmd)
END
}

# Where the sockets of these daemons are, in their configuration.
endpoints() {
    printf '[endpoints]\n'
    local name
    for name in "$@"; do
        printf 'aziot_%s = "unix://%s/%s.sock"\n' "$name" "$D" "$name"
    done
}

# Asks a daemon and shows question and answer: ask DAEMON METHOD PATH [BODY]. Leaves the answer in REPLY.
ask() {
    local daemon=$1 method=$2 path=$3 body=${4:-} version separator='?'
    case $daemon in
        keyd) version=$KEYS_VERSION ;;
        identityd) version=$IDENTITIES_VERSION ;;
        *) version=$COMMON_VERSION ;;
    esac
    if [[ $path == *\?* ]]; then separator='&'; fi
    local url="http://$daemon.sock$path${separator}api-version=$version"
    local command=(curl --silent --show-error --max-time 60 --unix-socket "$D/$daemon.sock" --request "$method")
    local shown="curl --unix-socket \$D/$daemon.sock"
    if [[ $method != GET ]]; then
        command+=(--header "$JSON" --data "$body")
        shown+=" -H $JSON -d '$(shorten <<<"$body")'"
    fi
    show "$shown '$url'"
    local status
    status=$("${command[@]}" --output "$D/answer" --write-out '%{http_code}' "$url")
    REPLY=$(<"$D/answer")
    if [[ $status != 20[014] ]]; then
        fail "$daemon answered $status: $REPLY"
    fi
    say "$(shorten <<<"$REPLY")"
}

listens() {
    curl --silent --max-time 60 --unix-socket "$D/$1.sock" --output /dev/null "http://$1.sock/"
}

is_provisioned() {
    local url="http://identityd.sock/identities/device?api-version=$IDENTITIES_VERSION" status
    status=$(curl --silent --max-time 60 --unix-socket "$D/identityd.sock" --output "$D/answer" \
        --write-out '%{http_code}' --header "$JSON" --data '{"type":"aziot"}' "$url") || true
    [[ $status == 200 ]]
}

# --- processes -----------------------------------------------------------------------------------------------------------

# Starts a program in the background: run NAME [env …] PROGRAM ARGUMENTS…; its log is NAME.log.
run() {
    local name=$1
    shift
    PATH="$BIN:$PATH" "$@" </dev/null >>"$D/$name.log" 2>&1 &
    PIDS[$name]=$!
}

# Ends what `run` has started: stop NAME
stop() {
    local pid=${PIDS[$1]}
    unset "PIDS[$1]"
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# Waits for a command to succeed: wait_until WHAT COMMAND…
wait_until() {
    local what=$1 end=$((SECONDS + 60)) name
    shift
    until "$@"; do
        for name in "${!PIDS[@]}"; do
            kill -0 "${PIDS[$name]}" 2>/dev/null || fail "$name has ended before $what"
        done
        if ((SECONDS > end)); then
            fail "waited for a minute until $what"
        fi
        sleep 0.1
    done
}

# --- texts ---------------------------------------------------------------------------------------------------------------

# The text of a member of the JSON on standard input, wherever it stands; for texts without quotes in them.
member() {
    grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | sed 's/^[^:]*: *"\(.*\)"$/\1/'
}

# The same for PEM, with the ends of its lines.
pem_member() {
    member "$1" | sed 's/\\n/\n/g'
}

# The file as text in JSON, for PEM.
in_json() {
    printf '"%s"' "$(sed ':a;N;$!ba;s/\n/\\n/g' "$1")"
}

# What is to be signed for a token, in base64: to_sign RESOURCE EXPIRY
to_sign() {
    printf '%s\n%s' "$1" "$2" | base64 -w 0
}

# The token: token RESOURCE EXPIRY SIGNATURE
token() {
    printf 'SharedAccessSignature sr=%s&sig=%s&se=%s\n' "$1" "$(encode "$3")" "$2"
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

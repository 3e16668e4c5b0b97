# shellcheck shell=bash
# Second act: the same device with certificates over EST, which are renewed while one watches. Certificates of programs on
# the device are in neighbours.sh.

# How long certificates live, in seconds; at half of it they are renewed.
readonly LIFE=60

second_act() {
    act 'Second act: the same device with certificates'
    prepare_authority
    restart_keyd
    start_certd
    step 'aziot-identityd: registers the device again, by a certificate now'
    stop identityd
    configure_identityd "method = \"x509\"
registration_id = \"$DEVICE\"
identity_cert = \"device-cert\"
identity_pk = \"device-cert\"
key_algorithm = \"ec-p256\"
identity_auto_renew = { rotate_key = true, threshold = \"50%\", retry = \"10%\" }"
    start_identityd
    say 'Until then it is who it was. It has keyd make a key pair, and certd get a certificate for that, for DPS to see.'
    wait_until 'the hub knows the certificate' is_known_by_certificate
    say 'DPS has told the hub which certificate it saw:'
    show "curl $ADMIN/devices/0/$DEVICE"
    say "$(grep -o '"authentication":{[^}]*}' "$D/answer" | head -n 1 | shorten)"
    show_device
    declare -gA FIRST=()
    note_first est-id
    note_first device-cert
    use_key_in_openssl
    step 'The proof: the device sends a message to the hub, with its certificate and without any token'
    send_event_with_certificate
    say 'The hub answers 204. curl has done the TLS handshake with a key that is in keyd.'
    meet_neighbours
    watch_renewals
}

prepare_authority() {
    step 'The authority: an EST server (RFC 7030), also simulated on this machine'
    say "It serves at $EST. Its certificates are to live for $LIFE seconds, so that you can watch a renewal."
    operate PUT /est/labels/default \
        "{\"authentication\":\"certificate\",\"validity_secs\":$LIFE,\"backdate_secs\":0}"
    say 'The operator admits all devices with certificates of this authority, and takes the first enrolment back:'
    local root
    root=$(in_json "$D/cloud/est-root.pem")
    operate PUT /enrollmentGroups/plant \
        "{\"attestation\":{\"type\":\"x509\",\"x509\":{\"signingCertificates\":{\"primary\":{\"certificate\":$root}}}}}"
    operate DELETE "/enrollments/$DEVICE"
    say 'The factory has given the device a certificate, with which it first comes to the EST server:'
    operate POST /issue '{"common_name":"factory-4711"}'
    pem_member chain <<<"$REPLY" >"$D/factory.pem"
    pem_member private_key <<<"$REPLY" >"$D/factory-key.pem"
}

restart_keyd() {
    step 'aziot-keyd: again, with the key of that certificate and a principal for the new keys'
    stop keyd
    cat >"$D/keyd.d/second.toml" <<END
[preloaded_keys]
est-bootstrap = "file://$D/factory-key.pem"

[[principal]]
uid = $UID
keys = ["est-*", "device-cert*", "site-ca"]
END
    say "This is in a file of its own, $D/keyd.d/second.toml."
    start keyd
}

start_certd() {
    step 'aziot-certd: gets certificates, and renews them'
    cat >"$D/certd.toml" <<END
homedir_path = "$D/certd"

[cert_issuance]
device-cert = { method = "est" }
device-cert-temp = { method = "est" } # while it is renewed
site-ca = { method = "self_signed" }
gateway = { method = "local_ca" }
sensor = { method = "local_ca" }

# The first contact is made as est-bootstrap; that gives the identity est-id, which certd renews from then on.
[cert_issuance.est]
trusted_certs = ["cloud-ca"]
bootstrap_identity_cert = "est-bootstrap"
bootstrap_identity_pk = "est-bootstrap"
identity_cert = "est-id"
identity_pk = "est-id"
identity_auto_renew = { rotate_key = true, threshold = "50%", retry = "10%" }

[cert_issuance.est.urls]
default = "$EST"

[cert_issuance.local_ca]
cert = "site-ca"
pk = "site-ca"

[preloaded_certs]
cloud-ca = "file://$D/cloud/ca.pem"
est-bootstrap = "file://$D/factory.pem"

[[principal]]
uid = $UID
certs = ["device-cert*", "site-ca", "gateway", "sensor"]

$(endpoints certd keyd)
END
    start certd
}

# Whether the hub knows the device by the thumbprint of a certificate.
is_known_by_certificate() {
    curl --silent --max-time 60 --output "$D/answer" "$ADMIN/devices/0/$DEVICE" && grep -q '"selfSigned"' "$D/answer"
}

# Everything that uses OpenSSL can use keys in keyd: by the provider, which openssl.cnf names.
use_key_in_openssl() {
    step 'aziot.so: lets OpenSSL, and so curl, use keys that are in keyd'
    cat >"$D/openssl.cnf" <<END
openssl_conf = init

[init]
providers = list

[list]
default = default_section
aziot = aziot_section

[default_section]
activate = 1

[aziot_section]
activate = 1
module = $BIN/libaziot.so
socket = unix://$D/keyd.sock

[req]
distinguished_name = name

[name]
END
    show "export OPENSSL_CONF=\$D/openssl.cnf"
    show "aziot-key-ref --socket unix://\$D/keyd.sock --out \$D/device-key.pem device-cert"
    "$BIN/aziot-key-ref" --socket "unix://$D/keyd.sock" --out "$D/device-key.pem" device-cert
    say "$(head -n 1 "$D/device-key.pem") … is in that file: the name of the key, which tells no secret."
}

# Runs a program of OpenSSL with that.
with_keyd() {
    OPENSSL_CONF="$D/openssl.cnf" "$@"
}

send_event_with_certificate() {
    ask certd GET /certificates/device-cert
    pem_member pem <<<"$REPLY" >"$D/device.pem"
    OPENSSL_CONF="$D/openssl.cnf" send_event "devices/$DEVICE" "--cert \$D/device.pem --key \$D/device-key.pem" \
        --cert "$D/device.pem" --key "$D/device-key.pem"
}

# --- renewal -------------------------------------------------------------------------------------------------------------

watch_renewals() {
    step 'Renewal: while you watch'
    say "certd renews est-id, and identityd device-cert, with new keys, when half of the $LIFE seconds are over."
    say "It is $(date -u +'%T GMT') now."
    local id
    for id in "${!FIRST[@]}"; do
        say "before: $id ${FIRST[$id]}"
    done
    for id in "${!FIRST[@]}"; do
        wait_until "$id is renewed" is_renewed "$id"
        say "after:  $id $(describe "$id")"
        wait_until "key and certificate of $id belong together" is_pair "$id"
    done
    say 'Before an old certificate was given up, the EST server, or DPS and the hub, had accepted the new one.'
    say 'The device has not been away; it still is who it was, for the hub too:'
    ask identityd POST /identities/device '{"type":"aziot"}'
    send_event_with_certificate
    say 'The hub answers 204 to the new certificate. Done.'
}

note_first() {
    FIRST[$1]=$(describe "$1")
    say "$1: ${FIRST[$1]}"
}

is_renewed() {
    local now
    now=$(describe "$1")
    [[ $now == serial=* && $now != "${FIRST[$1]}" ]]
}

# What certd has under this id: serial, end, and the beginning of its key's hash.
describe() {
    local pem key
    pem=$(certificate "$1")
    key=$(openssl x509 -noout -pubkey 2>/dev/null <<<"$pem" | sha256sum)
    printf '%s key=%s…' "$(openssl x509 -noout -serial -enddate 2>/dev/null <<<"$pem" | paste -sd ' ' -)" "${key:0:8}"
}

# Whether the key that keyd has is the one of the certificate that certd has.
is_pair() {
    local ours
    ours=$(with_keyd openssl pkey -in "aziot:id=$1" -pubout 2>/dev/null) || return
    [[ $ours == "$(certificate "$1" | openssl x509 -noout -pubkey)" ]]
}

# What certd has under this id, in PEM.
certificate() {
    curl --silent --max-time 60 --unix-socket "$D/certd.sock" \
        "http://certd.sock/certificates/$1?api-version=$COMMON_VERSION" | pem_member pem
}

try_second() {
    cat <<END
    # let OpenSSL use keys in keyd
    export OPENSSL_CONF=\$D/openssl.cnf
    openssl pkey -in aziot:id=device-cert -pubout
    # the certificate that the device has now
    curl --unix-socket \$D/certd.sock 'http://certd.sock/certificates/device-cert?api-version=$COMMON_VERSION'
    # watch further renewals
    tail -f \$D/certd.log \$D/identityd.log
    # which certificates the authority has issued
    curl $ADMIN/est/issued
END
}

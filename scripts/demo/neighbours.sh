# shellcheck shell=bash
# Second act: two programs on the device prove to each other who they are, with certificates of the site. No cloud is asked.

readonly SERVER_NAME=gateway.demo.plant.example CLIENT_NAME=sensor.demo.plant.example

meet_neighbours() {
    make_site_authority
    step 'Two programs get local identities: certificates for use on the site, without any cloud'
    get_local_identity gateway server
    get_local_identity sensor client
    step 'They meet: a TLS server, a client, and each proves who it is'
    start_gateway
    call_gateway
    call_gateway_as_stranger
    stop gateway
}

make_site_authority() {
    step 'The site: an authority of its own, whose key is in keyd'
    ask keyd POST /keypair '{"keyId":"site-ca","preferredAlgorithms":"ec-p256:*"}'
    local command=(openssl req -new -key aziot:id=site-ca -subj /CN=site-ca
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign')
    show "${command[*]}"
    with_keyd "${command[@]}" >"$D/site-ca.csr"
    ask certd POST /certificates "{\"certId\":\"site-ca\",\"csr\":$(in_json "$D/site-ca.csr")}"
    pem_member pem <<<"$REPLY" >"$D/site-ca.pem"
}

# Key and certificate of a program, in files: get_local_identity NAME server|client
get_local_identity() {
    ask identityd POST /identities/modules \
        "{\"type\":\"local\",\"moduleId\":\"$1\",\"localIdOpts\":{\"type\":\"x509\",\"attributes\":\"$2\"}}"
    pem_member certificate <<<"$REPLY" >"$D/$1.pem"
    pem_member privateKey <<<"$REPLY" >"$D/$1-key.pem"
    say "$(openssl x509 -in "$D/$1.pem" -noout -subject -issuer | paste -sd ' ' -)"
}

start_gateway() {
    # Port 0 is any free one; the server says which.
    local command=(openssl s_server -accept 127.0.0.1:0 -www -cert "$D/gateway.pem"
        -key "$D/gateway-key.pem" -CAfile "$D/site-ca.pem" -Verify 1 -verify_return_error)
    show "${command[*]//"$D"/\$D}"
    run gateway "${command[@]}"
    wait_until 'the gateway listens' grep -qs '^ACCEPT ' "$D/gateway.log"
    GATEWAY=$SERVER_NAME:$(sed -n 's/^ACCEPT .*:\([0-9]*\)$/\1/p' "$D/gateway.log" | head -n 1)
}

call_gateway() {
    show "curl --cacert \$D/site-ca.pem --cert \$D/sensor.pem --key \$D/sensor-key.pem https://$GATEWAY/"
    local page
    page=$(ask_gateway --cert "$D/sensor.pem" --key "$D/sensor-key.pem") || fail 'the gateway does not answer'
    if ! grep -q "Subject:.*$CLIENT_NAME" <<<"$page"; then
        fail "the gateway has not seen the sensor's certificate: $page"
    fi
    say "The sensor has verified $SERVER_NAME, by its certificate, name and issuer."
    say "The gateway has verified $CLIENT_NAME: $(grep -m 1 -o 'Subject:.*' <<<"$page")"
}

call_gateway_as_stranger() {
    show "curl --cacert \$D/site-ca.pem https://$GATEWAY/"
    if ask_gateway >"$D/answer"; then
        fail "the gateway lets a client in that shows no certificate: $(<"$D/answer")"
    fi
    wait_until 'the gateway says why it refuses' grep -q 'peer did not return a certificate' "$D/gateway.log"
    say 'Without a certificate the gateway refuses: "peer did not return a certificate".'
}

# What the gateway answers: ask_gateway CURL-OPTION…
ask_gateway() {
    curl --silent --max-time 30 --cacert "$D/site-ca.pem" --resolve "$GATEWAY:127.0.0.1" "$@" "https://$GATEWAY/"
}

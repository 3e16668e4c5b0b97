# shellcheck shell=bash
# First act: a device with a symmetric key, its module, and the proof that the module can sign.

first_act() {
    act 'First act: a device with a key'
    start_cloud
    enrol_key
    start_keyd
    step 'aziot-identityd: registers the device, then answers who it is'
    configure_identityd "method = \"symmetric_key\"
registration_id = \"$DEVICE\"
symmetric_key = \"device-id\""
    start_identityd
    show_device
    make_module
    sign_with_keyd
    step 'The proof: the module sends a message to the hub, with that token'
    send_event_with_token "devices/$DEVICE/modules/$MODULE"
    say 'The hub answers 204: it has checked the signature with the key in its registry. Done.'
    say 'The program that sent the message has never seen a key.'
}

enrol_key() {
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

$(endpoints keyd)
END
    start keyd
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

sign_with_keyd() {
    step 'A token: keyd signs with the key that the handle stands for'
    local resource expiry message
    resource=$(encode "$HUB/devices/$DEVICE/modules/$MODULE")
    expiry=$(($(date +%s) + 3600))
    message=$(to_sign "$resource" "$expiry")
    say "The text to be signed is the module's address at the hub and a time, one hour from now."
    ask keyd POST /sign \
        "{\"keyHandle\":\"$HANDLE\",\"algorithm\":\"HMAC-SHA256\",\"parameters\":{\"message\":\"$message\"}}"
    token "$resource" "$expiry" "$(member signature <<<"$REPLY")" >"$D/token"
}

try_first() {
    cat <<END
    # who is this device, and how was it provisioned?
    curl --unix-socket \$D/identityd.sock 'http://identityd.sock/identities/provisioning?api-version=$IDENTITIES_VERSION'
    # which modules does it have?
    curl --unix-socket \$D/identityd.sock 'http://identityd.sock/identities/modules?api-version=$IDENTITIES_VERSION&type=aziot'
    # ask for a key that no principal names, and read why not
    curl --unix-socket \$D/keyd.sock -H $JSON -d '{"keyId":"other","usage":"sign"}' 'http://keyd.sock/key?api-version=$KEYS_VERSION'
END
    if ((UID == 0)); then
        printf '    # (you are root, who may use any key: the last line is not refused)\n'
    fi
    cat <<END
    # register again (answers with nothing: 204)
    curl --unix-socket \$D/identityd.sock -X POST 'http://identityd.sock/identities/device/reprovision?api-version=$IDENTITIES_VERSION'
END
}

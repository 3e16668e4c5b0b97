# shellcheck shell=bash
# With TPM=1: a device that is known by its TPM, and the proof that the TPM signs for it.

act_with_tpm() {
    act 'A device with a TPM'
    start_cloud
    start_tpm
    start_tpmd
    enrol_tpm
    start_keyd_of_tpm
    step 'aziot-identityd: registers the device by means of the TPM'
    configure_identityd "method = \"tpm\"
registration_id = \"$REGISTRATION\""
    start_identityd
    show_device
    say 'DPS has sent a key that only this TPM can unwrap; it is in the TPM now, and nowhere else on the device.'
    sign_with_tpm
    step 'The proof: the device sends a message to the hub, with that token'
    send_event_with_token "devices/$REGISTRATION"
    say 'The hub answers 204: the TPM has signed with the key that DPS gave it. Done.'
}

start_tpm() {
    step 'A TPM: swtpm, a real one in software, with a state of its own'
    if ! command -v swtpm >/dev/null; then
        fail 'there is no swtpm; make setup installs it (Debian and Ubuntu: the package swtpm)'
    fi
    run swtpm swtpm socket --tpm2 --flags not-need-init,startup-clear --tpmstate dir="$D/tpm" \
        --server type=unixio,path="$D/tpm.sock" --ctrl type=unixio,path="$D/tpm.sock.ctrl"
    wait_until 'the TPM is there' test -S "$D/tpm.sock"
    say "It is at $D/tpm.sock; on a device it is /dev/tpmrm0."
}

start_tpmd() {
    step 'aziot-tpmd: the only program that talks to the TPM'
    cat >"$D/tpmd.toml" <<END
tcti = "swtpm:path=$D/tpm.sock"

# Who may use the TPM. Here everything runs as you; on a device it is identityd.
[[principal]]
uid = $UID

$(endpoints tpmd)
END
    start tpmd
}

enrol_tpm() {
    step 'The operator enrols this TPM'
    show 'aziot-tpmd --show-ek'
    local shown key
    shown=$(AZIOT_TPMD_CONFIG="$D/tpmd.toml" AZIOT_TPMD_CONFIG_DIR="$D/tpmd.d" "$BIN/aziot-tpmd" --show-ek \
        2>"$D/show-ek.log") || fail 'there is no endorsement key'
    key=$(sed -n 's/^endorsement key: //p' <<<"$shown")
    REGISTRATION=$(sed -n 's/^registration id: //p' <<<"$shown")
    say "endorsement key: ${key:0:24}…"
    say "registration id: $REGISTRATION"
    say 'Neither is a secret: the key is the public one that tells this TPM from all others.'
    operate PUT "/enrollments/$REGISTRATION" \
        "{\"attestation\":{\"type\":\"tpm\",\"tpm\":{\"endorsementKey\":\"$key\"}}}"
}

start_keyd_of_tpm() {
    step 'aziot-keyd: for the keys of modules; it has none of the device'
    cat >"$D/keyd.toml" <<END
[aziot_keys]
homedir_path = "$D/keyd"

[[principal]]
uid = $UID
keys = ["aziot_identityd_master_id"]

$(endpoints keyd)
END
    start keyd
}

sign_with_tpm() {
    step 'A token: the TPM signs'
    local resource expiry
    resource=$(encode "$HUB/devices/$REGISTRATION")
    expiry=$(($(date +%s) + 3600))
    say "The text to be signed is the device's address at the hub and a time, one hour from now."
    ask tpmd POST /sign_with_auth_key "{\"data\":\"$(to_sign "$resource" "$expiry")\"}"
    token "$resource" "$expiry" "$(member digest <<<"$REPLY")" >"$D/token"
}

try_tpm() {
    cat <<END
    # who is this device, and how was it provisioned?
    curl --unix-socket \$D/identityd.sock 'http://identityd.sock/identities/provisioning?api-version=$IDENTITIES_VERSION'
    # the TPM's public keys
    curl --unix-socket \$D/tpmd.sock 'http://tpmd.sock/get_tpm_keys?api-version=$COMMON_VERSION'
    # register again (answers with nothing: 204)
    curl --unix-socket \$D/identityd.sock -X POST 'http://identityd.sock/identities/device/reprovision?api-version=$IDENTITIES_VERSION'
END
}

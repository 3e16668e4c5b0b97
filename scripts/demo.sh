#!/usr/bin/env bash
# README's first command: provisions a device on this machine against a simulated cloud and says what happens.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/demo.sh [--once] [--help]

Builds the suite and starts a simulated cloud and the daemons in a temporary directory. Needs no root and no account.

  first act     a device with a key is provisioned, makes a module, signs a token with the module's key and shows it to
                the hub
  second act    the same device with certificates over EST; two programs prove to each other who they are; certificates
                are renewed while you watch
  with TPM=1    instead: a device with a TPM (in software) is enrolled and provisioned, and its TPM signs the token

  --once        end after the last step instead of waiting for Ctrl-C (also without a terminal)

  DEMO_ONCE=1        the same as --once
  TPM=1              the device with a TPM
  AZIOT_BIN_DIR=DIR  use the programs in DIR, and aziot.so as DIR/libaziot.so, instead of building them
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
# shellcheck source=scripts/demo/stage.sh
source "$ROOT/scripts/demo/stage.sh"
# shellcheck source=scripts/demo/first.sh
source "$ROOT/scripts/demo/first.sh"
# shellcheck source=scripts/demo/second.sh
source "$ROOT/scripts/demo/second.sh"
# shellcheck source=scripts/demo/neighbours.sh
source "$ROOT/scripts/demo/neighbours.sh"
# shellcheck source=scripts/demo/tpm.sh
source "$ROOT/scripts/demo/tpm.sh"

main() {
    local once=${DEMO_ONCE:-}
    case "${1:-}" in
        '') ;;
        --once) once=1 ;;
        -h | --help) usage && return ;;
        *) usage >&2 && return 2 ;;
    esac
    if [[ ${TPM:-0} != 0 ]]; then
        open_stage tpm aziot-{keyd,identityd,tpmd,cloud-sim}
        act_with_tpm
        what_next try_tpm
    else
        open_stage demo aziot-{keyd,identityd,certd,cloud-sim,key-ref} libaziot.so
        first_act
        second_act
        what_next try_first try_second
    fi
    if [[ -z $once && -t 0 && -t 1 ]]; then
        printf '\nEverything keeps running until you press Ctrl-C.\n'
        wait
    fi
}

main "$@"

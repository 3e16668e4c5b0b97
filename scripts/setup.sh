#!/usr/bin/env bash
# Installs what is missing to build, demonstrate and test the suite. Does nothing, quickly, when all is there.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/setup.sh [demo|tpm|all]

  demo   what `make demo` needs: a C linker, OpenSSL with headers, curl
  tpm    what `make demo TPM=1` needs: the same, a TPM in software, and the library for it
  all    the same and what the tests call (default)

Debian and Ubuntu: packages are installed with apt-get, through sudo unless you are root.
Elsewhere: it says what is missing and leaves the installation to you.
END
}

# The rows of each set: a Debian package, and a command that succeeds when it is there.
readonly DEMO_NEEDS='
build-essential    command -v cc
pkg-config         command -v pkg-config
libssl-dev         pkg-config --exists openssl
openssl            command -v openssl
curl               command -v curl
ca-certificates    test -e /etc/ssl/certs/ca-certificates.crt
'
readonly TPM_NEEDS='
libtss2-tctildr0   compgen -G "/usr/lib/*/libtss2-tctildr.so.0"
libtss2-tcti-swtpm0 compgen -G "/usr/lib/*/libtss2-tcti-swtpm.so.0"
swtpm              command -v swtpm
'
readonly TEST_NEEDS='
tpm2-tools         command -v tpm2_readpublic
softhsm2           command -v softhsm2-util
opensc             command -v pkcs11-tool
p11-kit            command -v p11-kit
libtpm2-pkcs11-1   compgen -G "/usr/lib/*/pkcs11/libtpm2_pkcs11.so"
libtpm2-pkcs11-tools command -v tpm2_ptool
tpm2-openssl       compgen -G "/usr/lib/*/ossl-modules/tpm2.so"
tpm2-abrmd         command -v tpm2-abrmd
libtss2-tcti-tabrmd0 compgen -G "/usr/lib/*/libtss2-tcti-tabrmd.so.0"
dbus-daemon        command -v dbus-daemon
util-linux         command -v setpriv && command -v unshare && command -v prlimit
python3            command -v python3
valgrind           command -v valgrind
nginx-light        command -v nginx
mosquitto          command -v mosquitto
mosquitto-clients  command -v mosquitto_pub
strongswan-pki     command -v pki
libstrongswan-standard-plugins test -e /usr/lib/ipsec/plugins/libstrongswan-openssl.so
'

main() {
    local needs
    case "${1:-all}" in
        demo) needs=$DEMO_NEEDS ;;
        tpm) needs=$DEMO_NEEDS$TPM_NEEDS ;;
        all) needs=$DEMO_NEEDS$TPM_NEEDS$TEST_NEEDS ;;
        -h | --help) usage && return ;;
        *) usage >&2 && return 2 ;;
    esac
    export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"
    install_packages "$(missing_packages "$needs")"
    require_rust
}

# The packages of $1 whose test fails, separated by blanks.
missing_packages() {
    local package present
    while read -r package present; do
        if [[ -n $package ]] && ! bash -c "$present" >/dev/null 2>&1; then
            printf '%s ' "$package"
        fi
    done <<<"$1"
}

install_packages() {
    local packages
    read -r -a packages <<<"$1"
    if ((${#packages[@]} == 0)); then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        printf 'Please install what these Debian packages hold, then run this again:\n' >&2
        printf '  %s\n' "${packages[@]}" >&2
        return 1
    fi
    local as_root=()
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null; then
            printf 'Please run as root:\n  apt-get install %s\n' "${packages[*]}" >&2
            return 1
        fi
        as_root=(sudo)
    fi
    printf 'Installing: %s\n' "${packages[*]}"
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${packages[@]}"
}

# Whether there is a Rust toolchain that is new enough; which one to install is the administrator's choice.
require_rust() {
    if ! command -v cargo >/dev/null; then
        printf 'Please install a Rust toolchain (rustup is the usual way), then run this again.\n' >&2
        return 1
    fi
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
    have=$(cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1) != "$wanted" ]]; then
        printf 'Rust %s is too old, %s is needed (rustup update)\n' "$have" "$wanted" >&2
        return 1
    fi
}

main "$@"

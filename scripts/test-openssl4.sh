#!/usr/bin/env bash
# Builds OpenSSL 4 from the sources in the crate openssl-src, and runs the journeys of the provider on it: with the
# module that was built for the OpenSSL of this machine, and with one that was built for OpenSSL 4. Takes some minutes
# the first time; the build is kept in target/openssl4.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

readonly VERSION='=400.0.2'
readonly PLACE="$PWD/target/openssl4"
readonly INSTALLED="$PLACE/installed"

main() {
    [[ -x $INSTALLED/bin/openssl ]] || build_openssl
    "$INSTALLED/bin/openssl" version

    cargo build --locked --bins --lib -p aziot-keyd -p key-engine -p aziot-openssl-provider
    cargo test --locked -p suite-tests --test engine --no-run
    echo 'OpenSSL 4 with the module for the OpenSSL of this machine:'
    journeys "$PWD/target/debug/libaziot.so"

    # A directory of its own: everything that knows OpenSSL is built anew.
    OPENSSL_DIR=$INSTALLED OPENSSL_STATIC=1 cargo build --locked -p key-engine -p aziot-openssl-provider \
        -p aziot-openssl-engine --lib --target-dir "$PLACE/cargo"
    echo 'OpenSSL 4 with the module for OpenSSL 4:'
    journeys "$PLACE/cargo/debug/libaziot.so"
    # The units and the keys in process, on OpenSSL 4.
    OPENSSL_DIR=$INSTALLED OPENSSL_STATIC=1 AZIOT_BIN_DIR="$PWD/target/debug" \
        cargo test --locked -p key-engine --target-dir "$PLACE/cargo"
}

# The crate has the sources of OpenSSL without those that make shared libraries, so the libraries are static. A provider
# has its own libcrypto then, which providers may have.
build_openssl() {
    local source
    mkdir -p "$PLACE/fetch/src"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nopenssl-src = "%s"\n[workspace]\n' \
        "$VERSION" >"$PLACE/fetch/Cargo.toml"
    : >"$PLACE/fetch/src/lib.rs"
    source=$(cargo metadata --format-version 1 --manifest-path "$PLACE/fetch/Cargo.toml" |
        grep -o '"[^"]*/openssl-src-[^"/]*/Cargo.toml"' | head -1 | tr -d '"')
    rm -rf "$PLACE/source"
    cp -r "$(dirname "$source")/openssl" "$PLACE/source"
    cd "$PLACE/source"
    perl Configure no-shared no-module no-tests no-docs no-legacy \
        --prefix="$INSTALLED" --libdir=lib --openssldir="$INSTALLED/ssl" >"$PLACE/build.log"
    make -j"$(nproc)" build_sw >>"$PLACE/build.log" 2>&1
    make install_sw >>"$PLACE/build.log" 2>&1
    cd - >/dev/null
}

# $1: the module under test.
journeys() {
    AZIOT_BUILT=1 AZIOT_OPENSSL="$INSTALLED/bin/openssl" AZIOT_PROVIDER=$1 \
        AZIOT_OPENSSL_FLAGS="-I$INSTALLED/include -L$INSTALLED/lib -Wl,-Bstatic -lssl -lcrypto -Wl,-Bdynamic" \
        cargo test --locked -p suite-tests --test engine -- \
        provider:: hardship:: making:: memory:: notes:: refusals:: rotation:: speed::
}

main

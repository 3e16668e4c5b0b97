#!/usr/bin/env bash
# Runs all tests. Journeys that act as several users need root; they say so when they do not have it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

# nextest gives each test a process of its own, which would ask cargo for the programs each time.
cargo build --locked --workspace --lib --bins
export AZIOT_BUILT=1

# Journeys wait more than they compute.
threads=$((3 * $(nproc)))
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$threads} RUST_TEST_THREADS=${RUST_TEST_THREADS:-$threads}

if command -v cargo-nextest >/dev/null; then
    cargo test --locked --workspace --doc # nextest does not run the examples in documentation
    cargo nextest run --locked --workspace --no-fail-fast
else
    cargo test --locked --workspace --no-fail-fast
fi

#!/usr/bin/env bash
# Runs all tests. Journeys that act as several users need root; they say so when they do not have it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

if command -v cargo-nextest >/dev/null; then
    cargo test --locked --workspace --doc # nextest does not run the examples in documentation
    cargo nextest run --locked --workspace --no-fail-fast
else
    cargo test --locked --workspace --no-fail-fast
fi

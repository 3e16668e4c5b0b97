#!/usr/bin/env bash
# Format, lints, documentation, licences: all that `make check` promises. Runs every step even after one failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PATH="$PATH:$HOME/.cargo/bin"

failed=()

step() {
    local name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || failed+=("$name")
}

step format cargo fmt --all --check
step lints cargo clippy --locked --workspace --all-targets -- -D warnings
step documentation env RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --locked --workspace --no-deps --document-private-items
if command -v cargo-deny >/dev/null; then
    step dependencies cargo deny --locked --offline check licenses bans sources
    # The list of known vulnerabilities has to be fetched; where that is impossible the other checks still count.
    if cargo deny fetch db 2>/dev/null; then
        step vulnerabilities cargo deny --locked check advisories
    fi
else
    printf '\n== dependencies: cargo-deny is not installed; tests/tests/tidy checks licences, bans and sources\n'
fi
if command -v shellcheck >/dev/null; then
    step scripts shellcheck --external-sources --check-sourced scripts/*.sh .ci/run
fi

if ((${#failed[@]} > 0)); then
    printf '\nNOT CLEAN: %s\n' "${failed[*]}" >&2
    exit 1
fi
printf '\nclean\n'

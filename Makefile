# What README's commands call. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench test-openssl4 test-interop test-memory test-weather test-endurance build api

help: ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1@\2/p' $(MAKEFILE_LIST) | column -t -s @

setup: ## install what building and testing need
	@scripts/setup.sh all

demo: ## watch a device being provisioned on this machine, with TPM=1 by its TPM; needs no root
	@scripts/demo.sh

build: ## build all programs and the modules for OpenSSL (debug)
	cargo build --locked --workspace --lib --bins

test: ## run all tests
	@scripts/test.sh

check: ## format, lints, documentation, licences: what must be clean before a commit
	@scripts/check.sh

bench: ## measure speed and memory of release builds
	cargo build --locked --release --workspace --lib --bins
	cargo run --locked --release --package suite-bench
	AZIOT_RATE=1 cargo test --locked --release --package suite-tests --test engine the_rate -- --nocapture

test-openssl4: ## run the tests against OpenSSL 4, which is built first
	@scripts/test-openssl4.sh

test-interop: ## let certd enrol at an EST server that is not ours, which is built first
	@scripts/test-interop.sh

test-memory: ## run the modules for OpenSSL ten thousand times under valgrind
	AZIOT_ROUNDS=10000 cargo test --locked --release --package suite-tests --test engine memory:: -- --nocapture

test-weather: ## run the long tests of bad times: each trouble of the cloud for a minute, hundreds of kills
	cargo test --locked --package suite-tests --test identities -- --ignored --nocapture --test-threads 1 weather kills
	cargo test --locked --package suite-tests --test renewal -- --ignored --nocapture

test-endurance: ## run ten thousand operations on a TPM, by tpmd and by keyd
	AZIOT_TPM_OPERATIONS=10000 cargo test --locked --package suite-tests --test tpm --test keys_tpm endurance:: -- --nocapture

api: ## write docs/api anew from the tables of endpoints
	UPDATE_API=1 cargo test --locked --package suite-tests --test openapi

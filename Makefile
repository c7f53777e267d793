# What one does with tertulia. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Tools that were fetched are found behind those that are installed, by make's commands and by the tests.
export PATH := $(PATH):$(CURDIR)/.tools/bin

CARGO ?= cargo
# Passed to the server by `make run`, such as ARGS='--chat 127.0.0.1:9000'.
ARGS ?=
# Passed to `cargo test` by `make test`, such as TESTS='-p tertulia-server shard::'.
TESTS ?= --workspace

TEST_TOOLS := grpcurl nats-server promtool
LINT_TOOLS := buf cargo-deny shellcheck
SCRIPTS := .ci/run

.PHONY: help run test test-tools lint lint-tools lint-fmt lint-clippy lint-doc lint-proto lint-deps lint-scripts fmt clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS=$$'\t' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

run: ## Build and start the server with its defaults (ARGS='...' for more)
	$(CARGO) build --locked --release --bin tertulia-server --bin tertulia
	exec "$${CARGO_TARGET_DIR:-target}/release/tertulia-server" $(ARGS)

test: test-tools ## Run all tests (TESTS='...' for some)
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked $(TESTS)

lint: lint-tools lint-fmt lint-scripts lint-proto lint-deps lint-clippy lint-doc ## All checks that are not tests; what is quick comes first

lint-fmt: ## Formatting of the Rust code
	$(CARGO) fmt --all --check

lint-clippy: ## Clippy, every warning an error
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

lint-doc: ## Rustdoc, every warning an error
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

lint-proto: lint-tools ## The admin API, by buf
	buf lint proto

lint-deps: lint-tools ## Licences, bans and sources of dependencies, by cargo-deny
	cargo-deny --locked check --hide-inclusion-graph bans licenses sources

lint-scripts: lint-tools ## Shell scripts, by shellcheck; Python scripts compile
	shellcheck $(SCRIPTS)
	python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' tests/tools/fetch tests/tools/nats-servers

fmt: ## Format the Rust code
	$(CARGO) fmt --all

clean: ## Remove what was built and what was fetched
	$(CARGO) clean
	rm -rf .tools

test-tools:
	@tests/tools/fetch $(TEST_TOOLS)

lint-tools:
	@tests/tools/fetch $(LINT_TOOLS)

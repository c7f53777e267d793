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
# Which state of the repository `make test-upgrade` starts from, such as FROM=v0.1.0.
FROM ?=
# Passed to tests/deploy/run by `make test-deploy`.
DEPLOY ?=

TEST_TOOLS := grpcurl nats-server
# Come as Debian packages: where one cannot be had, the test that wants it says so and is left out.
TEST_TOOLS_AT_BEST := libfaketime mosquitto redis-server
# What `make bench` measures beside tertulia.
BENCH_TOOLS := mosquitto nats-server redis-server
LINT_TOOLS := buf cargo-deny shellcheck
SCRIPTS := .ci/run tests/tools/older-server
PYTHON_SCRIPTS := docs/examples/minimal.py tests/tools/fetch tests/tools/nats-servers helm/readme tests/deploy/run $(wildcard tests/deploy/*.py tests/observe/*.py deploy/grafana/*.py deploy/grafana/source/*.py) \
	tests/observe/run tests/observe/picture tests/bench/run tests/bench/growth tests/bench/durability tests/bench/nodes tests/bench/disk.py tests/bench/nats_wire.py tests/bench/servers.py tests/instructions/check

.PHONY: help run check-instructions durability growth nodes test soak test-upgrade test-tools lint lint-tools lint-fmt lint-clippy lint-doc lint-proto proto-baseline lint-deps lint-scripts fmt clean test-deploy test-observe picture bench \
	chart-files chart-files-check chart-readme

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS=$$'\t' read -r target text; do printf '  make %-18s %s\n' "$$target" "$$text"; done

run: ## Build and start the server with its defaults; messages are in ./data (ARGS='...' for more)
	$(CARGO) build --locked --release --bin tertulia-server --bin tertulia
	exec "$${CARGO_TARGET_DIR:-target}/release/tertulia-server" $(ARGS)

test: test-tools ## Run all tests (TESTS='...' for some)
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked $(TESTS)
	$(if $(filter --workspace,$(TESTS)),TERTULIA_TEST_ENGINE=memory $(CARGO) test --locked --workspace --test e2e)

soak: ## Random faults on three nodes for long (ROUNDS=200)
	@tests/tools/fetch nats-server
	$(CARGO) build --locked --workspace --bins
	TERTULIA_SOAK_ROUNDS="$${ROUNDS:-200}" $(CARGO) test --locked -p tertulia-tests --test cluster -- --ignored --nocapture many_rounds

test-upgrade: ## Replace the server of an older commit by this one: nodes one by one, and on its data directory (FROM=REF)
	@[ -n "$(FROM)" ] || { echo 'say from what: make test-upgrade FROM=REF' >&2; exit 1; }
	@tests/tools/fetch grpcurl nats-server
	$(CARGO) build --locked --workspace --bin tertulia-server
	server=$$(tests/tools/older-server "$(FROM)"); \
		TERTULIA_OTHER_SERVER="$$server" $(CARGO) test --locked -p tertulia-tests --test cluster --test durability upgrade::

test-deploy: ## Test image, manifests and chart (DEPLOY='manifests image cluster nodes' for some)
	$(CARGO) build --locked --workspace --bins
	tests/deploy/run $(DEPLOY)

chart-files: ## Copy rules and dashboards into the chart, which can only bring along what is in its folder
	@mkdir -p helm/tertulia/files/rules helm/tertulia/files/dashboards
	rm -f helm/tertulia/files/rules/* helm/tertulia/files/dashboards/*
	cp deploy/prometheus/rules/*.yml helm/tertulia/files/rules/
	cp deploy/grafana/dashboards/*.json helm/tertulia/files/dashboards/

chart-files-check: ## Whether the copies of `make chart-files` are current
	@for part in prometheus/rules grafana/dashboards; do \
		[ ! -e "deploy/$$part" ] || diff -r "deploy/$$part" "helm/tertulia/files/$${part#*/}" || { echo 'run: make chart-files' >&2; exit 1; }; \
	done

chart-readme: ## Write the chart's README from its values
	helm/readme

test-observe: ## Dashboards and alerts, with a real Prometheus and a chat under way
	@tests/tools/fetch prometheus promtool grpcurl openssl
	$(CARGO) build --locked --workspace --bin tertulia-server
	tests/observe/run

picture: ## The picture of the overview in the README, made anew
	@tests/tools/fetch matplotlib prometheus
	$(CARGO) build --locked --release --bin tertulia-server
	TERTULIA_SERVER="$${CARGO_TARGET_DIR:-target}/release/tertulia-server" PYTHONPATH=.tools/python/matplotlib tests/observe/picture

bench: ## Measure beside Redis, NATS and Mosquitto (BENCH=quick for a few minutes); see docs/benchmarks.md
	@tests/tools/fetch $(BENCH_TOOLS)
	$(CARGO) build --locked --release --bin tertulia-server --bin tertulia-loadgen
	tests/bench/run

durability: ## Measure what it costs that messages are on the disk before they are acknowledged; see docs/benchmarks.md
	$(CARGO) build --locked --release --bin tertulia-server --bin tertulia-loadgen
	$(CARGO) build --locked --release -p tertulia-server --example log_bench
	tests/bench/durability

nodes: ## Measure one, two and three nodes on NATS beside a single one; see docs/benchmarks.md
	@tests/tools/fetch nats-server grpcurl
	$(CARGO) build --locked --release --bin tertulia-server --bin tertulia-loadgen
	tests/bench/nodes

check-instructions: ## Count the instructions of a post on its way, and compare them with tests/instructions/baseline.json
	@tests/tools/fetch valgrind
	$(CARGO) build --locked --profile counted -p tertulia-instructions
	tests/instructions/check

growth: ## How memory and work grow with members and groups: the tables and the picture of docs/benchmarks.md
	@tests/tools/fetch matplotlib
	$(CARGO) build --locked --release --bin tertulia-server --bin tertulia-loadgen
	PYTHONPATH=.tools/python/matplotlib tests/bench/growth

lint: lint-tools lint-fmt lint-scripts lint-proto lint-deps lint-clippy lint-doc ## All checks that are not tests; what is quick comes first

lint-fmt: ## Formatting of the Rust code
	$(CARGO) fmt --all --check

lint-clippy: ## Clippy, every warning an error
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

lint-doc: ## Rustdoc, every warning an error
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

lint-proto: lint-tools ## The admin API, by buf: its style, and that it only grows
	buf lint proto
	buf breaking proto --against proto/baseline.binpb
	@buf breaking proto/baseline.binpb --against proto --config proto/buf.yaml >/dev/null || { echo 'the admin API has grown: run `make proto-baseline`' >&2; exit 1; }

proto-baseline: lint-tools ## Keep what the admin API has now as what no later one may break
	buf breaking proto --against proto/baseline.binpb
	buf build proto --exclude-source-info --output proto/baseline.binpb

lint-deps: lint-tools ## Licences, bans and sources of dependencies, by cargo-deny
	cargo-deny --locked check --hide-inclusion-graph bans licenses sources

lint-scripts: lint-tools ## Shell scripts, by shellcheck; Python scripts compile
	shellcheck $(SCRIPTS)
	python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' $(PYTHON_SCRIPTS)

fmt: ## Format the Rust code
	$(CARGO) fmt --all

clean: ## Remove what was built and what was fetched
	$(CARGO) clean
	rm -rf .tools

test-tools:
	@tests/tools/fetch $(TEST_TOOLS)
	@tests/tools/fetch $(TEST_TOOLS_AT_BEST) || [ "$${TERTULIA_TEST_REQUIRED:-}" != 1 ]

lint-tools:
	@tests/tools/fetch $(LINT_TOOLS)

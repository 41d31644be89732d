# The commands of everyday work; `make` alone lists them. CI runs the same ones, by .ci/run.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Tools that the scripts fetched for themselves.
export PATH := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/tools:$(PATH)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## see it work: a slow API, the proxy and its page in one process
	$(CARGO) run --release --locked -- demo

.PHONY: test
test: ## run all tests; installs redis-server by the system's package manager when it is missing
	@scripts/install-test-tools.sh
	@echo "==> cargo test (the first time builds everything: some minutes)"
	$(CARGO) test --locked --no-fail-fast

.PHONY: conformance conformance-check
conformance: ## run the public HTTP cache tests and write docs/conformance.md; fetches node and the tests when missing
conformance-check: ## the same, but docs/conformance.md has to be so already
conformance-check: conformance_check := --check
conformance conformance-check:
	@scripts/install-test-tools.sh
	@scripts/install-cache-tests.sh
	@scripts/build.sh
	@node tests/conformance/run.mjs $(conformance_check)

.PHONY: lint
lint: ## formatting, and clippy with warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

.PHONY: fmt
fmt: ## format the sources
	$(CARGO) fmt --all

.PHONY: docs
docs: ## build the documentation, private items too, with warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --locked

.PHONY: dependencies
dependencies: ## lock file, sources, TLS provider and licences of what we depend on
	@scripts/check-dependencies.sh

.PHONY: dashboards
dashboards: ## check Prometheus' configuration and alerts and the dashboard; fetches promtool when it is missing
	@scripts/check-dashboards.sh

.PHONY: files
files: ## check the shell scripts, compose.yaml and deploy/
	@scripts/check-files.sh

# What `make bench` asks of benches/run.py: BENCH="hits --quick" for a part of it, and nothing written.
BENCH ?= --write

.PHONY: bench
bench: ## all benchmarks, beside the peers that are installed: half an hour; writes docs/performance.md. BENCH="hits --quick": some
	@scripts/install-bench-tools.sh
	@scripts/build.sh
	$(CARGO) build --release --locked --bin asidecar --example bare --example load
	@benches/run.py $(BENCH)

.PHONY: build
build: ## build asidecar as it is shipped, laid out by a profile (benches/pgo), into target/pgo/release/asidecar
	@scripts/build.sh

.PHONY: profile
profile: ## make that profile anew, for the rustc in use: a build that counts and a short run, some five minutes
	@scripts/train.sh

.PHONY: bench-peers
bench-peers: ## install nginx, HAProxy, Varnish, Traffic Server and Squid by the system's package manager, without starting them
	@scripts/install-bench-peers.sh

.PHONY: bench-hot
bench-hot: ## the pieces of a hit, in nanoseconds
	$(CARGO) bench --locked --bench hot

.PHONY: counts counts-update
counts: ## instructions that a hit and its pieces take, against benches/counts.json; installs valgrind when missing
counts-update: ## the same, and write the ceilings anew: when more work is wanted, or less is done by now
counts-update: counts_update := --update
counts counts-update:
	@scripts/install-valgrind.sh
	$(CARGO) build --release --locked --bin asidecar
	$(CARGO) build --release --locked --example bare --example counts
	@./benches/counts.py $(counts_update)

.PHONY: eviction
eviction: ## hit ratios of the memory tier beside LRU, FIFO, S3-FIFO and the optimum, on generated traces
	@$(CARGO) run --quiet --release --locked --example eviction

.PHONY: fleet
fleet: ## what a fleet does under faults and load: real processes, some minutes; writes docs/fleet.md
	@scripts/install-test-tools.sh
	$(CARGO) build --locked --release --bin asidecar --example fleet
	@"$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release/examples/fleet"

.PHONY: image
image: ## build both container images
	docker build --tag asidecar --build-arg REVISION="$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" .
	docker build --tag asidecar-upstream --target upstream .

.PHONY: up
up: ## start everything with docker compose: API, Redis, two proxies, Prometheus, Grafana
	docker compose up --build

.PHONY: ci
ci: ## all that CI checks, in its order
	@.ci/run

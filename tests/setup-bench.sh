#!/usr/bin/env bash
# Installs what `make bench` needs beyond tests/setup.sh: the engines and runtimes that are measured beside ours; youki, which Debian does not have,
# into CACHE/bin.
# Usage: setup-bench.sh CACHE
set -euo pipefail
cache=$1
missing=()
for package in podman containerd runc time libseccomp-dev pkg-config; do
    dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    # No service of theirs is to start: the bench starts its own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
[ -x "$cache/bin/youki" ] || cargo install --quiet --locked --root "$cache" --version 0.7.0 --features v2,seccomp youki

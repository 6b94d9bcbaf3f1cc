#!/usr/bin/env bash
# Installs what `make bench` needs beyond tests/setup.sh: the engines that are measured beside ours.
set -euo pipefail
missing=()
for package in podman containerd; do
    dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
((${#missing[@]})) || exit 0
# No service of theirs is to start: the bench starts its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null

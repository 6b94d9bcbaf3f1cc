#!/usr/bin/env bash
# Builds the images of the suites from Debian packages, as small as they run:
#   OUT/busybox.tar    docker.io/library/busybox:latest
#   OUT/nginx.tar      docker.io/library/nginx:latest
#   OUT/nginx-alt.tar  docker.io/library/nginx:alt and :1.27-alt, the same with another page in a layer of its own
# The .tar files are what `docker save` writes.
#
# Runs as root or as a user with sub-ids; packages come from this machine's own apt sources. Needs mmdebstrap. The same packages give the same bytes. What this same script made is kept.
# Usage: build.sh OUT
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
arch=$(dpkg --print-architecture)
stamp=$(cat "$here"/build.sh "$here"/layers | sha256sum | cut -c1-64)-$suite-$arch
if [ "$(cat "$out/stamp" 2> /dev/null)" = "$stamp" ]; then
    exit 0
fi
mkdir -p "$out"
rm -f "$out/stamp"
work=$(mktemp -d "${TMPDIR:-/tmp}/wherry-images.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Layers. Inside the user namespace of mmdebstrap, files of this user are somebody else's.
mkdir "$work/layers"
chmod 0755 "$work"
chmod 0777 "$work/layers"
cp "$here/layers" "$work/make-layers"
sources=(/etc/apt/sources.list.d/debian.sources)
[ -e "${sources[0]}" ] || sources=(/etc/apt/sources.list)
mmdebstrap --quiet --variant=extract --format=null --include=nginx,busybox \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
    --extract-hook="sh $work/make-layers \"\$1\" $work/layers" "$suite" - "${sources[@]}"

# save ARCHIVE 'CONFIG' 'TAGS' LAYER...: what `docker save` would write; TAGS and CONFIG are JSON.
save() {
    local archive=$1 config=$2 tags=$3 layer diff_ids='' names='' dir
    shift 3
    dir=$(mktemp -d "$work/save.XXXXXX")
    for layer in "$@"; do
        diff_ids+=",\"sha256:$(sha256sum < "$work/layers/$layer" | cut -c1-64)\""
        names+=",\"$layer\""
        cp "$work/layers/$layer" "$dir/$layer"
    done
    printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$arch" "$config" "${diff_ids#,}" > "$dir/config.json"
    printf '[{"Config":"config.json","RepoTags":%s,"Layers":[%s]}]' "$tags" "${names#,}" > "$dir/manifest.json"
    tar --create --file "$work/$archive" --directory "$dir" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        manifest.json config.json "$@"
}
path='"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"'
nginx="{\"Env\":[$path],\"Cmd\":[\"nginx\",\"-g\",\"daemon off;\"],\"ExposedPorts\":{\"80/tcp\":{}},\"StopSignal\":\"SIGQUIT\"}"
save busybox.tar "{\"Env\":[$path],\"Cmd\":[\"sh\"]}" '["busybox:latest"]' busybox-layer.tar
save nginx.tar "$nginx" '["nginx:latest"]' nginx-layer.tar page-layer.tar
save nginx-alt.tar "$nginx" '["nginx:alt","nginx:1.27-alt"]' nginx-layer.tar alt-page-layer.tar

cp "$work"/{busybox,nginx,nginx-alt}.tar "$out/"
chmod -R a+rX "$out"
echo "$stamp" > "$out/stamp"

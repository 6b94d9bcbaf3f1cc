#!/bin/sh
# Serves what fill-registry.sh made as a registry over plain HTTP, in the foreground; the storage is not written to, so several
# may serve it at once. Stop it with SIGTERM.
# Usage: registry.sh OUT ADDRESS   (OUT as for build.sh, ADDRESS as 127.0.0.1:5000)
#
# An agent reaches it as a mirror of Docker Hub with this registries.toml:
#   ["docker.io"]
#   mirrors = ["http://127.0.0.1:5000"]
set -eu
config=$(mktemp)
readonly=true
[ -z "${WHERRY_REGISTRY_WRITABLE:-}" ] || readonly=false
cat > "$config" <<EOF
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $1/registry}
  maintenance: {uploadpurging: {enabled: false}, readonly: {enabled: $readonly}}
http: {addr: "$2"}
EOF
# The file is read at start only; the name goes, the open descriptor stays.
exec 3< "$config"
rm "$config"
exec docker-registry serve /dev/fd/3

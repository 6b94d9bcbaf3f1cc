#!/usr/bin/env bash
# From nothing to a served page: a one-node cluster on this host, the manifests beside this file, one request.
# Usage: quickstart.sh BIN      BIN holds ctl and the daemons. `ctl down --purge` undoes all of it.
set -euo pipefail
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$bin:$PATH KUBECONFIG=/etc/wherry/kubeconfig
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n%s\n' "$*"; }

if [ "$(id -u)" != 0 ]; then
    echo 'quickstart: needs root: it makes namespaces, cgroups and a bridge (try sudo make quickstart)' >&2
    exit 1
fi

flags=()
cgroup2=$(awk '/ - cgroup2 /{print $5; exit}' /proc/self/mountinfo)
if [ -z "$cgroup2" ] || ! grep -qw memory "$cgroup2/cgroup.controllers"; then
    say 'This host does not offer the memory controller in cgroup v2, so limits cannot be enforced here.'
    echo 'Pods will run all the same, unlimited: the node is started with --allow-unenforced-limits.'
    flags+=(--allow-unenforced-limits)
fi

say '1. The cluster: scheduler, netd and agent on this host'
ctl up "${flags[@]}"

say '2. The manifest examples/hello.yaml: two pods of a web server, and a Service in front of them'
ctl apply -f "$here/hello.yaml"
ctl rollout status deployment/hello
ctl get pods,services -o wide

node=$(ctl get nodes -o json | sed -n '/"InternalIP"/!{/"address"/h};/"InternalIP"/{x;s/.*: "\(.*\)".*/\1/p;q}')
page() {
    exec 3<> "/dev/tcp/$1/$2"
    printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" >&3
    sed '1,/^\r$/d' <&3
}
say "3. The page, from a pod through the Service: http://$node:30080/"
page "$node" 30080

say 'Done. What to do next:'
cat <<EOF
  export PATH=$bin:\$PATH KUBECONFIG=$KUBECONFIG
  ctl get all                              what runs; kubectl works as well
  ctl scale deployment hello --replicas=5
  ctl logs deploy/hello
  ctl down --purge                         stop it all and leave nothing behind
EOF

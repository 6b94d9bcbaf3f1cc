#!/usr/bin/env bash
# From nothing to a served page: a one-node cluster on this host, the manifests beside this file, two requests.
# Usage: quickstart.sh BIN      BIN holds ctl and the daemons. `ctl down --purge` undoes all of it.
set -euo pipefail
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$bin:$PATH KUBECONFIG=/etc/wherry/kubeconfig
bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\033[1m' plain=$'\033[0m'
fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

if [ "$(id -u)" != 0 ]; then
    echo 'quickstart: needs root: it makes namespaces, cgroups and a bridge (try `sudo make quickstart`)' >&2
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

say '2. The image nginx:latest, which the examples use'
# Without a way to Docker Hub an image of the same name is made from Debian's nginx package.
if ctl image ls | grep -q 'docker.io/library/nginx:latest'; then
    echo 'It is here already.'
elif ! timeout 60 ctl image pull nginx:latest; then
    echo 'Docker Hub cannot be reached from here. Making the image from the Debian package nginx instead:'
    command -v mmdebstrap > /dev/null ||
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap > /dev/null; }
    images=$(mktemp -d)
    trap 'rm -rf "$images"' EXIT
    "$here/../tests/images/build.sh" "$images"
    ctl image import "$images/nginx.tar"
fi

say '3. The manifests of examples/: Pods, Deployments, Services, a ConfigMap and a Secret'
for manifest in "$here"/*.yaml; do
    ctl apply -f "$manifest"
done
ctl rollout status deployment/hello
ctl rollout status deployment/nginx-deployment
for pod in nginx-pod app-pod; do
    timeout 60 sh -c "until ctl get pod $pod | grep -qw Running; do sleep 0.2; done" ||
        { echo "quickstart: pod $pod does not run; see: ctl describe pod $pod" >&2; exit 1; }
done
ctl get pods,services -o wide

node=$(ctl get nodes -o wide | awk 'NR == 2 {print $6}')
page() {
    exec 3<> "/dev/tcp/$1/$2"
    printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" >&3
    sed '1,/^\r$/d' <&3
}
say "4. A page from a pod, through the Service hello: http://$node:30080/"
page "$node" 30080
say "   and one from nginx, through the Service nginx-nodeport: http://$node:30081/"
page "$node" 30081

say 'Done. What to do next:'
cat <<EOF
  export PATH=$bin:\$PATH KUBECONFIG=$KUBECONFIG
  ctl get all                              what runs; kubectl works as well
  ctl scale deployment nginx-deployment --replicas=5
  ctl logs deployment/hello
  ctl down --purge                         stop it all and leave nothing behind
EOF

#!/usr/bin/env python3
"""Writes schema.txt: the protobuf forms of the Kubernetes kinds that clients send, taken from the Go types.

Usage: schema.py DIR_OF_k8s.io/api DIR_OF_k8s.io/apimachinery > schema.txt   (the unpacked modules)

A line with a dot starts a message; the others are its fields: number, JSON name, type. `?` after a type: JSON leaves
the field out when it is zero. `inline`: the fields of that message stand in the outer one.
"""
import pathlib
import re
import sys

API, MACHINERY = (pathlib.Path(arg) for arg in sys.argv[1:3])
META = "meta/v1"
KINDS = {
    "core/v1": "Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod "
    "PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount",
    "apps/v1": "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
    "authentication/v1": "SelfSubjectReview TokenRequest TokenReview",
    "authorization/v1": "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview",
    "autoscaling/v1": "HorizontalPodAutoscaler Scale",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "batch/v1": "CronJob Job",
    "coordination/v1": "Lease",
    "discovery/v1": "EndpointSlice",
    "events/v1": "Event",
    "networking/v1": "Ingress IngressClass NetworkPolicy",
    "policy/v1": "Eviction PodDisruptionBudget",
    "rbac/v1": "ClusterRole ClusterRoleBinding Role RoleBinding",
    "scheduling/v1": "PriorityClass",
    "storage/v1": "StorageClass",
    META: "DeleteOptions",
}
SPECIAL = {
    f"{META}.Time": "time",
    f"{META}.MicroTime": "microtime",
    f"{META}.FieldsV1": "fields",
    "resource.Quantity": "quantity",
    "intstr.IntOrString": "intorstring",
    "runtime.RawExtension": "raw",
}
SCALARS = {"string": "string", "bool": "bool", "int32": "int", "int64": "int", "uint32": "int", "byte": "byte"}
PACKAGES = {"resource": "resource", "intstr": "intstr", "runtime": "runtime", "types": "types"}


def package_of(path):
    """The package that an import path names."""
    if path.endswith("apimachinery/pkg/apis/meta/v1"):
        return META
    if path.startswith("k8s.io/api/"):
        return path.removeprefix("k8s.io/api/")
    return PACKAGES.get(path.rsplit("/", 1)[-1])


def parse(package):
    """Types of a package: name -> [(go name, go type, tags)] of a struct, or the type it stands for."""
    base = MACHINERY / "pkg/apis" / package if package == META else API / package
    types, imports = {}, {}
    for file in ("types.go", "objectreference.go"):
        text = (base / file).read_text() if (base / file).exists() else ""
        for alias, path in re.findall(r'^\s*(?:import )?(\w+)? ?"(k8s\.io/[^"]+)"', text, re.M):
            imports[alias or path.rsplit("/", 1)[-1]] = package_of(path)
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S):
            lines = re.findall(r"^\t(\w[\w.]*)(?:\s+([^\s`]+))?\s+`([^`]*)`", body, re.M)
            types[name] = [(field, kind or field, tags) for field, kind, tags in lines]
        for name, other in re.findall(r"^type (\w+) ((?:map|\[\])?\S*\w)$", text, re.M):
            types.setdefault(name, other)
    return types, imports


PARSED = {}
MESSAGES = {}


def resolve(package, kind):
    """A Go type in our notation."""
    types, imports = PARSED.setdefault(package, parse(package))
    if kind.startswith("*"):
        return resolve(package, kind[1:])
    if kind == "[]byte":
        return "bytes"
    if kind.startswith("[]"):
        return "[]" + resolve(package, kind[2:])
    if kind.startswith("map["):
        return "map:" + resolve(package, kind.split("]", 1)[1])
    if kind in SCALARS:
        return SCALARS[kind]
    if "." in kind:
        alias, name = kind.split(".")
        other = imports[alias]
        if f"{other}.{name}" in SPECIAL:
            return SPECIAL[f"{other}.{name}"]
        return "string" if other == "types" else resolve(other, name)
    if f"{package}.{kind}" in SPECIAL:
        return SPECIAL[f"{package}.{kind}"]
    if isinstance(types[kind], str):
        inner = resolve(package, types[kind])
        # Upstream wraps a named list into a message of its own.
        return f"items:{inner[2:]}" if inner.startswith("[]") else inner
    message(package, kind)
    return f"{package}.{kind}"


def message(package, name):
    """Notes a message and all that it is made of."""
    key = f"{package}.{name}"
    if key in MESSAGES:
        return
    fields = MESSAGES[key] = []
    types, _ = PARSED.setdefault(package, parse(package))
    for go_name, kind, tags in types[name]:
        number = re.search(r'protobuf:"\w+,(\d+),', tags)
        if not number:
            continue
        json, *flags = re.search(r'json:"([^"]*)"', tags).group(1).split(",")
        resolved = resolve(package, kind)
        if not json:
            fields.append(f"{number.group(1)} - inline {resolved}")
            continue
        left_out = ("omitempty" in flags or "omitzero" in flags) and not kind.startswith("*")
        fields.append(f"{number.group(1)} {json} {resolved}{'?' if left_out else ''}")


for package, kinds in KINDS.items():
    for kind in kinds.split():
        message(package, kind)
print("# Made by schema.py; k8s.io/api 0.37.2.")
for key in sorted(MESSAGES):
    print(f".{key}")
    print(*MESSAGES[key], sep="\n")

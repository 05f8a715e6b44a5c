#!/bin/sh
# Release on Kubernetes, in the namespace that the environment's overlay names:
#   sh deploy/release.sh roll-out IMAGE ENVIRONMENT     apply, wait, smoke test; else back to what ran before
#   sh deploy/release.sh smoke ENVIRONMENT
#   sh deploy/release.sh roll-back ENVIRONMENT          to the release before this one
# IMAGE is NAME@sha256:DIGEST; so is the jobs' in PIPELINE_IMAGE or build/delivery/pipeline-image. From the environment:
# KUBECONFIG, or KUBE_CONFIG with its content; TIMEOUT (seconds until a pod must be ready, 300).
# The ConfigMap `release` holds the manifests of this release and of the one before, `release-lock` who is releasing.
set -u
cd "$(dirname "$0")/.." || exit 1

slug={{ cookiecutter.project_slug }}
TIMEOUT=${TIMEOUT:-300}
scratch=$(mktemp -d) || exit 1
locked=

finish() {
    [ -z "$locked" ] || kubectl delete configmap release-lock --ignore-not-found >"$scratch/unlock" 2>&1
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    echo "error: $1: see the head of deploy/release.sh" >&2
    exit 2
}

# The last line of what kubectl said, which is where it puts the reason.
reason() {
    tail -n 1 "$scratch/said"
}

kube() {
    kubectl "$@" >"$scratch/said" 2>&1
    code=$?
    cat "$scratch/said"
    return $code
}

lock() {
    until=$(($(date +%s) + 1800)) # longer than a release takes
    by="$(id -un 2>/dev/null || id -u) on $(uname -n), $(date -u +%Y-%m-%dT%H:%MZ)"
    set -- create configmap release-lock "--from-literal=until=$until" "--from-literal=by=$by"
    if kubectl "$@" >"$scratch/said" 2>&1; then
        locked=yes
        return
    fi
    grep -q AlreadyExists "$scratch/said" || fail "namespace $namespace: $(reason)"
    held=$(kubectl get configmap release-lock -o jsonpath='{.metadata.resourceVersion} {.data.until} {.data.by}') ||
        fail "another release has just ended: try again"
    version=${held%% *} held=${held#* }
    if [ "${held%% *}" -lt "$(date +%s)" ]; then # its job was killed; of two that see it the first one's version holds
        kubectl "$@" --dry-run=client -o json | sed "s/\"name\"/\"resourceVersion\": \"$version\", \"name\"/" |
            kubectl replace -f - >"$scratch/said" 2>&1 && locked=yes && return
    fi
    fail "another release runs in $namespace (${held#* }); if not: kubectl -n $namespace delete configmap release-lock"
}

# What a release left in the cluster: the key `manifest` or `previous`.
recorded() {
    kubectl get configmap release --ignore-not-found -o "jsonpath={.data.$1}"
}

image_of() {
    sed -n "s/^ *\(- \)\{0,1\}image: \(.*$slug[^-].*\)/\2/p" "$1" | head -n 1
}

# Apply a manifest, wait until its pods are ready, and ask one of them a question.
bring() {
    kube apply -f "$1" || { why="the cluster says: $(reason)" && return 1; }
    kube rollout status deployment/api "--timeout=${TIMEOUT}s" || { why=$(pods) && return 1; }
    smoke || { why="its smoke test fails: $(reason)" && return 1; }
}

# Why no pod is ready, as the kubelet tells it, and the end of their logs.
pods() {
    kubectl logs --selector app.kubernetes.io/component=api --tail 20 --prefix --ignore-errors >&2
}

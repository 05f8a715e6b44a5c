# What every release on a cluster has in common; deploy/release.sh says what differs, then reads this file.
#   roll-out IMAGE ENVIRONMENT     apply, wait, smoke test; else back to what ran before
#   smoke ENVIRONMENT
#   roll-back ENVIRONMENT          to the release before this one
# IMAGE is NAME@sha256:DIGEST; the jobs' image is in PIPELINE_IMAGE or build/delivery/pipeline-image. From the
# environment: KUBECONFIG, or KUBE_CONFIG with its content; TIMEOUT (seconds until the pods must be ready, 300).
# The ConfigMap `release` keeps the manifests of this release and of the one before; `release-lock` says who releases.
#
# deploy/release.sh sets: platform (its folder), object (kind/name of what is released), kind (the same as manifests
# write it), pods (a selector), container; and defines `ready MANIFEST`. What it defines anew replaces what is here.
set -u

slug={{ cookiecutter.project_slug }}
TIMEOUT=${TIMEOUT:-300}
locked=
umask 077
scratch=$(mktemp -d) || exit 1
said=$scratch/said

end() {
    [ -z "$locked" ] || kube delete configmap release-lock --ignore-not-found >"$said" 2>&1
    rm -rf "$scratch"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

fail() {
    printf 'error: %s\n' "$1" >&2 # not echo, which takes \n in what a cluster says for a line break
    exit 1
}

usage() {
    printf 'error: %s: see the head of deploy/release.sh\n' "$1" >&2
    exit 2
}

kube() {
    kubectl --namespace "$namespace" "$@"
}

# Run kubectl and show what it says.
tell() {
    kube "$@" >"$said" 2>&1
    code=$?
    cat "$said"
    return $code
}

# The line in which kubectl gave the reason; of one that repeats the manifest, both ends.
reason() {
    { grep -im 1 'error\|invalid\|forbidden\|refused' "$said" || tail -n 1 "$said"; } |
        awk '{ n = length($0); print (n > 500 ? substr($0, 1, 100) " ... " substr($0, n - 250) : $0) }'
}

# One release at a time: only one can create the ConfigMap. It counts for half an hour, if its owner was killed.
lock() {
    by="$(id -un 2>/dev/null || id -u) on $(uname -n) since $(date -u +%Y-%m-%dT%H:%MZ)"
    set -- create configmap release-lock "--from-literal=until=$(($(date +%s) + 1800))" "--from-literal=by=$by"
    kube "$@" >"$said" 2>&1 && locked=yes && return
    grep -q 'already exists' "$said" || fail "cannot release in $namespace: $(reason)"
    held=$(kube get configmap release-lock -o 'jsonpath={.metadata.resourceVersion} {.data.until} {.data.by}' 2>"$said") ||
        fail "another release in $namespace has just ended: try again"
    version=${held%% *} held=${held#* }
    if [ "${held%% *}" -lt "$(date +%s)" ]; then # of two that take it over, the version lets in the first
        kube "$@" --dry-run=client -o json | sed "s/\"name\"/\"resourceVersion\": \"$version\", \"name\"/" |
            kube replace -f - >"$said" 2>&1 && locked=yes && return
    fi
    fail "another release runs in $namespace (${held#* }); if it does not: kubectl -n $namespace delete configmap release-lock"
}

# A manifest of the ConfigMap `release`: the key `manifest` is what runs, `previous` the release before.
recorded() {
    kube get configmap release --ignore-not-found -o "jsonpath={.data.$1}" 2>"$said" ||
        fail "cannot read the releases of $namespace: $(reason)"
}

# What runs: as recorded, or as somebody applied it by hand. Nothing, if nothing does.
running() {
    recorded manifest >"$scratch/running"
    [ -s "$scratch/running" ] || [ -z "$object" ] || kube apply view-last-applied "$object" -o yaml >"$scratch/running" 2>"$said" ||
        : >"$scratch/running"
}

record() {
    previous=${2:+--from-file=previous=$2}
    kube create configmap release "--from-file=manifest=$1" $previous --dry-run=client -o yaml |
        kube apply --server-side --force-conflicts -f - >"$said" 2>&1 ||
        fail "$(image_in "$1") runs, but was not recorded, so that nothing can go back to it: $(reason)"
}

# The image of what is released; the jobs have another one.
image_in() {
    awk -v kind="kind: $kind" '/^---/ { found = 0 } $0 == kind { found = 1 }
        found && $(NF - 1) ~ /image:$/ { print $NF; exit }' "$1"
}

# Delete what the first manifest has and the second has not: a removed job must not run on.
prune() {
    kube get -f "$1" --ignore-not-found -o name >"$scratch/old" 2>"$said" || return 0
    kube get -f "$2" --ignore-not-found -o name >"$scratch/new" 2>"$said" || return 0
    grep -vxF -f "$scratch/new" "$scratch/old" | while read -r left; do
        tell delete "$left" --wait=false
    done
}

# The newest ready pod that runs an image, "" is any: one that still ends may be of the release before.
newest_pod() {
    named="?(@.name==\"$container\")"
    kube get pods --selector "$pods" --sort-by .metadata.creationTimestamp -o "jsonpath={range .items[*]}{.metadata.name} \
{.status.containerStatuses[$named].ready} {.spec.containers[$named].image}{\"\n\"}{end}" 2>"$said" |
        awk -v image="$1" '$2 == "true" && (image == "" || $3 == image) { pod = $1 } END { print pod }'
}

# Wait until a pod that runs an image is ready.
pod_ready() {
    until=$(($(date +%s) + TIMEOUT))
    while [ -z "$(newest_pod "$1")" ]; do
        [ "$(date +%s)" -lt "$until" ] || { echo "no pod with it became ready within $TIMEOUT s" >"$said" && return 1; }
        sleep 1
    done
}

smoke() {
    pod=$(newest_pod "${1:-}")
    [ -n "$pod" ] || { echo "no pod is ready in $namespace" >>"$said" && return 1; }
    tell exec "$pod" --container "$container" -- $slug smoke
}

# Why the pods are not ready, as the kubelet says it; their logs are shown.
unready() {
    last=$(reason)
    kube logs --selector "$pods" --container "$container" --tail 20 --prefix --ignore-errors 2>&1
    state='{range .items[*].status.containerStatuses[*]}{.state.waiting.reason} {.state.waiting.message}{"\n"}{end}'
    why=$(kube get pods --selector "$pods" -o "jsonpath=$state" 2>"$said" | grep -m 1 '[^ ]' || echo "$last")
}

# Apply a manifest, wait until it is ready, ask it a question. The reason of a failure is in $why.
bring_manifest() {
    if ! tell apply -f "$1"; then
        why=$(reason)
    elif ! ready "$1"; then
        unready
    elif ! smoke "$(image_in "$1")"; then
        why="its smoke test says: $(reason)"
    else
        return 0
    fi
    return 1
}

bring() {
    bring_manifest "$1"
}

# Bring a manifest, or else what ran before.
change() {
    image=$(image_in "$1")
    tell apply --dry-run=server -f "$1" >"$scratch/dry" ||
        fail "the cluster refuses the manifest, and nothing was changed: $(reason)"
    bring "$1" && return
    failed=$why
    if [ -s "$scratch/running" ]; then
        was=$(image_in "$scratch/running")
        bring "$scratch/running" || fail "$image was not released ($failed), nor does $was come back: $why"
        prune "$1" "$scratch/running"
    else
        was=nothing
        tell delete --ignore-not-found --wait=false -f "$1"
    fi
    fail "$image was not released: $failed; $was runs, as before"
}

# Put an image into the manifests of an overlay.
render_image() {
    cat >"$made/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../../$overlay]
images:
  - {name: $slug, newName: "${1%@*}", digest: "${1#*@}"}
${pipeline:+  - {name: $slug-pipeline, newName: "${pipeline%@*}", digest: "${pipeline#*@}"\}}
END
    kubectl kustomize "$made"
}

render() {
    render_image "$1"
}

roll_out() {
    made=build/$platform/$environment
    mkdir -p "$made"
    pipeline=${PIPELINE_IMAGE:-$(cat build/delivery/pipeline-image 2>/dev/null)}
    render "$1" >"$made/manifest.yaml" 2>"$said" || fail "$overlay: $(reason)"
    ! grep -q 'image: .*:unreleased' "$made/manifest.yaml" ||
        fail "the jobs have no image: set PIPELINE_IMAGE=NAME@sha256:DIGEST, or leave components/jobs out of $overlay"
    lock
    running
    change "$made/manifest.yaml"
    record "$made/manifest.yaml" "$([ ! -s "$scratch/running" ] || echo "$scratch/running")"
    [ ! -s "$scratch/running" ] || prune "$scratch/running" "$made/manifest.yaml"
    echo "$1 runs in $namespace"
}

roll_back() {
    lock
    recorded previous >"$scratch/previous"
    [ -s "$scratch/previous" ] ||
        fail "nothing to go back to: $namespace has no release before this one, which runs on; or roll out an older image"
    running
    change "$scratch/previous"
    record "$scratch/previous" ""
    prune "$scratch/running" "$scratch/previous"
    echo "$image runs in $namespace"
}

main() {
    verb=${1:-}
    case "$verb:$#" in
    roll-out:3) image=$2 environment=$3 ;;
    smoke:2 | roll-back:2) environment=$2 ;;
    *) usage "'$*' is not roll-out IMAGE ENVIRONMENT, smoke ENVIRONMENT or roll-back ENVIRONMENT" ;;
    esac
    overlay=deploy/$platform/overlays/$environment
    [ -e "$overlay/kustomization.yaml" ] || usage "no environment '$environment' in deploy/$platform/overlays"
    namespace=$(sed -n 's/^namespace: *//p' "$overlay/kustomization.yaml")
    command -v kubectl >/dev/null || fail "kubectl is not installed"
    if [ -n "${KUBE_CONFIG:-}" ]; then
        printf '%s\n' "$KUBE_CONFIG" >"$scratch/kubeconfig"
        export KUBECONFIG="$scratch/kubeconfig"
    fi
    case "$verb" in
    roll-out)
        case "$image" in
        *?@sha256:????????????????????????????????????????????????????????????????) roll_out "$image" ;;
        *) fail "'$image' is no image by its digest, NAME@sha256:..., which alone says what runs" ;;
        esac
        ;;
    smoke)
        smoke
        case $? in
        0) ;;
        3) reason >&2 && exit 3 ;; # it answers, and says no
        *) fail "the smoke test in $namespace fails: $(reason)" ;;
        esac
        ;;
    roll-back) roll_back ;;
    esac
}

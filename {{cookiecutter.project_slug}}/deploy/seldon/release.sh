#!/bin/sh
# Release on Seldon Core 2, in the namespace that the environment's overlay names:
#   sh deploy/release.sh roll-out IMAGE ENVIRONMENT     apply, wait, smoke test; else back to what ran before
#   sh deploy/release.sh smoke ENVIRONMENT
#   sh deploy/release.sh roll-back ENVIRONMENT          to the release before this one
# IMAGE is of deploy/seldon/Dockerfile. Each release brings a Server, named by the image's digest; the Model moves to it
# when it is ready, and the Server of the release before then goes. More settings: deploy/kubernetes/cluster.sh.
cd "$(dirname "$0")/.." || exit 1
. deploy/kubernetes/cluster.sh

platform=seldon
object=  # a Model alone says nothing of its Server: only what was recorded can come back
container=mlserver
MESH=${MESH:-http://seldon-mesh} # Seldon's gateway, as the namespace's pods see it

server_in() {
    sed -n 's/^  name: \(mlserver-[0-9a-f]\{12\}\)$/\1/p' "$1" | head -n 1
}

image_in() {
    awk '/^---/ { found = 0 } /^  name: mlserver-[0-9a-f]*$/ { found = 1 }
        found && $(NF - 1) ~ /image:$/ { print $NF; exit }' "$1"
}

# Everywhere where it says `unreleased`, the name of the release stands.
render() {
    render_image "$1" >"$scratch/rendered" || return 1
    digest=${1#*@sha256:}
    sed "s/-unreleased\b/-$(printf %.12s "$digest")/" "$scratch/rendered"
}

ready() {
    server=$(server_in "$1")
    tell wait --for=condition=Ready "server/$server" "--timeout=${TIMEOUT}s" &&
        tell wait --for=condition=Ready "model/$slug" "--timeout=${TIMEOUT}s"
}

unready() {
    why=$(reason)
    kube logs "$server-0" --container $container --tail 20 2>&1
}

smoke() {
    if [ -z "${server:-}" ]; then
        recorded manifest >"$scratch/running"
        server=$(server_in "$scratch/running")
        [ -n "$server" ] || { echo "no release is recorded in $namespace" >"$said" && return 1; }
    fi
    tell exec -i "$server-0" --container $container -- python - "$MESH" $slug "$TIMEOUT" <deploy/seldon/smoke.py
}

main "$@"

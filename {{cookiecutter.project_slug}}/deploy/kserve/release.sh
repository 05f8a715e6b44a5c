#!/bin/sh
# Release on KServe, in the namespace that the environment's overlay names:
#   sh deploy/release.sh roll-out IMAGE ENVIRONMENT     apply, wait, smoke test; else back to what ran before
#   sh deploy/release.sh smoke ENVIRONMENT
#   sh deploy/release.sh roll-back ENVIRONMENT          to the release before this one
# With components/serverless the new revision first gets CANARY percent of the requests (10), and all of them once it
# has passed the smoke test; CANARY_SECONDS (0) are between the two. More settings: deploy/kubernetes/cluster.sh.
cd "$(dirname "$0")/.." || exit 1
. deploy/kubernetes/cluster.sh

platform=kserve
object=inferenceservice/api
kind=InferenceService
pods=serving.kserve.io/inferenceservice=api
container=kserve-container
CANARY=${CANARY:-10}
CANARY_SECONDS=${CANARY_SECONDS:-0}

ready() {
    pod_ready "$(image_in "$1")" || return 1
    if ! grep -q 'canaryTrafficPercent:' "$1"; then
        tell rollout status deployment/api-predictor "--timeout=${TIMEOUT}s"
    elif grep -q 'canaryTrafficPercent: 100$' "$1"; then # KServe then sends all requests to it
        made_last='{.status.components.predictor.latestCreatedRevision}'
        revision=$(kube get $object -o "jsonpath=$made_last" 2>"$said")
        tell wait $object "--for=jsonpath={.status.components.predictor.latestRolledoutRevision}=$revision" "--timeout=${TIMEOUT}s"
    fi
}

# A roll-out beside an older release begins as a canary.
bring() {
    if [ "$verb" = roll-out ] && [ "$1" != "$scratch/running" ] && [ -s "$scratch/running" ] &&
        grep -q 'canaryTrafficPercent: 100$' "$1"; then
        sed "s/canaryTrafficPercent: 100$/canaryTrafficPercent: $CANARY/" "$1" >"$scratch/canary"
        bring_manifest "$scratch/canary" || return 1
        echo "$CANARY % of the requests go to $(image_in "$1")"
        sleep "$CANARY_SECONDS"
    fi
    bring_manifest "$1"
}

main "$@"

#!/bin/sh
# Release on Kubernetes, in the namespace that the environment's overlay names:
#   sh deploy/release.sh roll-out IMAGE ENVIRONMENT     apply, wait, smoke test; else back to what ran before
#   sh deploy/release.sh smoke ENVIRONMENT
#   sh deploy/release.sh roll-back ENVIRONMENT          to the release before this one
# Settings: deploy/kubernetes/cluster.sh.
cd "$(dirname "$0")/.." || exit 1
. deploy/kubernetes/cluster.sh

platform=kubernetes
object=deployment/api
kind=Deployment
pods=app.kubernetes.io/component=api
container=api

ready() {
    tell rollout status $object "--timeout=${TIMEOUT}s"
}

main "$@"

#!/bin/sh
# Release by Cloud Deploy: which waits for the approval of production, applies, waits, and runs the smoke test.
#   sh deploy/google/release.sh roll-out IMAGE ENVIRONMENT
#   sh deploy/google/release.sh smoke ENVIRONMENT
#   sh deploy/google/release.sh roll-back ENVIRONMENT
# From the environment: RELEASE_NAME, the same for staging and production, and TOOLS, the image that deploy/google/Dockerfile
# makes. The rest is in deploy/google/settings.env.
set -u
cd "$(dirname "$0")/../.." || exit 1
. deploy/google/settings.sh

pipeline={{ cookiecutter.project_slug }}
verb=${1:-}

fail() {
    echo "error: $verb: $1" >&2
    exit 1
}

deploy() {
    gcloud deploy "$@" --quiet "--project=$PROJECT_ID" "--region=$REGION" "--delivery-pipeline=$pipeline"
}

# The rollouts into a target that are in one of these states, newest last: NAME STATE
rollouts() {
    deploy rollouts list --release=- "--filter=targetId=$target AND state:($1)" --sort-by=createTime \
        '--format=value(name.basename(),state)'
}

# Wait for a rollout; a failed one has been rolled back by the automation `back`.
wait_for() {
    while state=$(deploy rollouts describe "$1" "--release=$RELEASE_NAME" '--format=value(state)'); do
        case $state in
        SUCCEEDED) return ;;
        FAILED | CANCELLED | HALTED | APPROVAL_REJECTED)
            why=$(deploy rollouts describe "$1" "--release=$RELEASE_NAME" '--format=value(failureReason)')
            fail "$image was not released to $environment: Cloud Deploy says $state: ${why:-see its page}"
            ;;
        esac
        sleep 10
    done
    fail "Cloud Deploy does not tell the state of $1"
}

roll_out() {
    [ -n "${RELEASE_NAME:-}" ] && [ -n "${TOOLS:-}" ] || fail "RELEASE_NAME and TOOLS say nothing: set them as cloudbuild-cd.yaml does"
    busy=$(rollouts 'PENDING IN_PROGRESS PENDING_RELEASE') || fail "Cloud Deploy does not answer"
    [ -z "$busy" ] || fail "another release to $environment is not finished: $(echo "$busy" | head -n 1)"
    rollout=$RELEASE_NAME-to-$environment
    if [ "$environment" = staging ]; then
        images="$pipeline=$image,tools=$TOOLS"
        [ ! -s build/delivery/pipeline-image ] || images="$images,$pipeline-pipeline=$(cat build/delivery/pipeline-image)"
        deploy releases create "$RELEASE_NAME" --source=deploy --skaffold-file=google/skaffold.yaml "--images=$images" \
            "--gcs-source-staging-dir=gs://$BUCKET/deploy/source" --disable-initial-rollout ||
            fail "Cloud Deploy takes no release, see above"
    fi
    deploy releases promote "--release=$RELEASE_NAME" "--to-target=$target" "--rollout-id=$rollout" ||
        fail "Cloud Deploy does not roll out, see above"
    if [ "$environment" = production ]; then
        echo "$rollout waits for an approval: gcloud deploy rollouts approve $rollout --release=$RELEASE_NAME" \
            "--delivery-pipeline=$pipeline --region=$REGION"
    else
        wait_for "$rollout"
        echo "$image runs in $environment"
    fi
}

roll_back() {
    gcloud deploy targets rollback "$target" "--delivery-pipeline=$pipeline" --quiet "--project=$PROJECT_ID" "--region=$REGION" ||
        fail "Cloud Deploy does not go back, see above; what runs in $environment runs on"
}

case "$verb:$#" in
roll-out:3) image=$2 environment=$3 ;;
smoke:2 | roll-back:2) environment=$2 ;;
*) echo "error: see the head of deploy/google/release.sh" >&2 && exit 2 ;;
esac
target=$pipeline-$environment
case "$verb" in
roll-out) roll_out ;;
smoke) . deploy/google/smoke.sh ;;
roll-back) roll_back ;;
esac

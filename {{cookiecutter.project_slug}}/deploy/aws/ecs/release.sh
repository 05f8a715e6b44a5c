#!/bin/sh
# Release on ECS, by an update of the environment's stack (deploy/aws/target.yaml):
#   sh deploy/aws/release.sh roll-out IMAGE ENVIRONMENT     update, wait, smoke test; else back to what ran before
#   sh deploy/aws/release.sh smoke ENVIRONMENT
#   sh deploy/aws/release.sh roll-back ENVIRONMENT          to the image before this one
# The stack's parameters Image and PreviousImage say what runs and what ran before. Who asks is said by the environment:
# a role in CodeBuild, or AWS_PROFILE; AWS_REGION.
set -u

slug={{ cookiecutter.project_slug }}
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    echo "error: $1: see the head of deploy/aws/release.sh" >&2
    exit 2
}

# The last line that aws printed: there it gives the reason.
reason() {
    grep . "$said" | tail -n 1
}

stack() {
    aws cloudformation describe-stacks --stack-name "$stack" --query "Stacks[0].$1" --output text 2>"$said" ||
        fail "cannot read the stack $stack: $(reason)"
}

parameter() {
    value=$(stack "Parameters[?ParameterKey=='$1'].ParameterValue | [0]") || exit
    [ "$value" = None ] || echo "$value"
}

# Start an update to image $1, with $2 as the one before it. CloudFormation lets in one at a time.
update() {
    keep=
    for key in $(stack 'Parameters[].ParameterKey'); do
        case $key in
        Image | PreviousImage) ;;
        *) keep="$keep ParameterKey=$key,UsePreviousValue=true" ;;
        esac
    done
    # shellcheck disable=SC2086 # one word for each parameter
    aws cloudformation update-stack --stack-name "$stack" --use-previous-template --capabilities CAPABILITY_IAM \
        --parameters $keep "ParameterKey=Image,ParameterValue=$1" "ParameterKey=PreviousImage,ParameterValue=$2" \
        >"$said" 2>&1
}

# Wait for the end of the update; say why, if it failed.
updated() {
    aws cloudformation wait stack-update-complete --stack-name "$stack" >"$said" 2>&1 && return
    failed="StackEvents[?ResourceStatus=='UPDATE_FAILED'].ResourceStatusReason | [0]"
    why=$(aws cloudformation describe-stack-events --stack-name "$stack" --query "$failed" --output text 2>"$said") ||
        why=$(reason)
    # Its own way back may take longer than the wait.
    aws cloudformation wait stack-rollback-complete --stack-name "$stack" >"$said" 2>&1
    return 1
}

# Ask the API a question from a task of the same image and network, as clients do: through the load balancer.
smoke() {
    host=$(parameter HostName) || exit
    service=$(aws ecs describe-services --cluster "$stack" --services api --output json \
        --query 'services[0].[taskDefinition, networkConfiguration]' 2>"$said") || { why=$(reason) && return 1; }
    definition=$(printf %s "$service" | jq -r '.[0]')
    asks=$(jq -cn --arg slug $slug --arg url "https://$host" '{containerOverrides: [{name: "api", command: [$slug, "smoke", $url]}]}')
    task=$(aws ecs run-task --cluster "$stack" --launch-type FARGATE --task-definition "$definition" --overrides "$asks" \
        --network-configuration "$(printf %s "$service" | jq -c '.[1]')" --query 'tasks[0].taskArn' --output text 2>"$said") ||
        { why=$(reason) && return 1; }
    aws ecs wait tasks-stopped --cluster "$stack" --tasks "$task" >"$said" 2>&1 || { why=$(reason) && return 1; }
    code=$(aws ecs describe-tasks --cluster "$stack" --tasks "$task" --query 'tasks[0].containers[0].exitCode' --output text 2>"$said")
    [ "$code" = 0 ] && return
    why="the smoke test ended with $code: see the log group /$slug/$environment"
    return 1
}

# Bring image $1, with $2 as the one to go back to; if it does not answer, $running runs again.
bring() {
    running=$(parameter Image) || exit
    before=$(parameter PreviousImage) || exit
    if ! update "$1" "$2"; then
        case $(reason) in
        *"No updates"*) ;; # it runs already: ask it
        *IN_PROGRESS*) fail "another release in $stack runs: wait for its end" ;;
        *) fail "$1 was not released, ${running:-nothing} runs, as before: $(reason)" ;;
        esac
    elif ! updated; then
        fail "$1 was not released: $why; ${running:-nothing} runs, as before"
    fi
    smoke && echo "$1 runs in $stack" && return
    failed=$why
    [ "$1" != "$running" ] || fail "$1 runs and fails its smoke test: $failed"
    update "$running" "$before" && updated ||
        fail "$1 was not released ($failed), nor does ${running:-nothing} come back: $(reason)"
    fail "$1 was not released: $failed; ${running:-nothing} runs, as before"
}

roll_out() {
    was=$(parameter Image) || exit
    if [ "$was" = "$1" ]; then was=$(parameter PreviousImage) || exit; fi
    bring "$1" "$was"
}

roll_back() {
    to=$(parameter PreviousImage) || exit
    [ -n "$to" ] || fail "nothing to go back to: $stack has no image before this one, which runs on; or roll out an older image"
    bring "$to" ""
}

verb=${1:-}
case "$verb:$#" in
roll-out:3) image=$2 environment=$3 ;;
smoke:2 | roll-back:2) environment=$2 ;;
*) usage "'$*' is not roll-out IMAGE ENVIRONMENT, smoke ENVIRONMENT or roll-back ENVIRONMENT" ;;
esac
case "$environment" in
staging | production) stack=$slug-$environment ;;
*) usage "no environment '$environment'" ;;
esac
command -v aws >/dev/null || fail "aws is not installed"
case "$verb" in
roll-out)
    case "$image" in
    *?@sha256:????????????????????????????????????????????????????????????????) roll_out "$image" ;;
    *) fail "'$image' is no image by its digest, NAME@sha256:..., which alone says what runs" ;;
    esac
    ;;
smoke) smoke || fail "the API in $stack fails its smoke test: $why" ;;
roll-back) roll_back ;;
esac

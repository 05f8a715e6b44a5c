#!/bin/sh
# Releases with Docker Compose:
#   sh deploy/release.sh roll-out IMAGE ENVIRONMENT   if IMAGE does not become healthy and answer, the one before runs again
#   sh deploy/release.sh smoke ENVIRONMENT            one real request, from inside the container
#   sh deploy/release.sh roll-back ENVIRONMENT        to the image before
# From the environment: API_KEYS and POSTGRES_PASSWORD; DEPLOY_HOST (user@host, with Docker), SSH_KEY, SSH_KNOWN_HOSTS;
# or DOCKER_HOST, by default this machine's engine. The environment's name is for messages: each has a host of its own.
set -u
step=${1:-}
case "$step $#" in
"roll-out 3") image=$2 environment=$3 ;;
"smoke 2" | "roll-back 2") environment=$2 ;;
*) echo "error: usage: sh deploy/release.sh roll-out IMAGE ENVIRONMENT, or smoke or roll-back ENVIRONMENT" >&2 && exit 2 ;;
esac

fail() {
    echo "error: $step $environment: $1" >&2
    exit 1
}

cd "$(dirname "$0")" || exit
for name in API_KEYS POSTGRES_PASSWORD; do
    [ -n "$(printenv $name)" ] || fail "$name is not set: a secret of the environment $environment"
done

work=$(mktemp -d) || exit
lock=
trap '[ -z "$lock" ] || docker rm --force --volumes "$lock" >/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
if [ -n "${DEPLOY_HOST:-}" ]; then
    export DOCKER_HOST="ssh://$DEPLOY_HOST"
fi
if [ -n "${SSH_KEY:-}" ]; then # Docker's own ssh has no options: one with them comes first on PATH
    [ -n "${SSH_KNOWN_HOSTS:-}" ] || fail "SSH_KNOWN_HOSTS is not set: the lines that ssh-keyscan prints, checked"
    ssh=$(command -v ssh) || fail "ssh is not installed"
    (
        umask 077
        printenv SSH_KEY >"$work/key"
        printenv SSH_KNOWN_HOSTS >"$work/known_hosts"
        options="-i $work/key -o IdentitiesOnly=yes -o UserKnownHostsFile=$work/known_hosts -o StrictHostKeyChecking=yes"
        printf '#!/bin/sh\nexec %s %s "$@"\n' "$ssh" "$options" >"$work/ssh"
        chmod +x "$work/ssh"
    )
    PATH="$work:$PATH"
fi

docker info >/dev/null 2>"$work/why" || fail "no engine answers at ${DOCKER_HOST:-this machine}: $(tail -n 1 "$work/why")"

# The image that runs, and the one before it, which the container's label tells.
look() {
    listed=$(docker compose ps --all api --format json 2>"$work/why") || fail "$(tail -n 1 "$work/why")"
    running=$(printf %s "$listed" | sed -n 's/.*"Image":"\([^"]*\)".*/\1/p')
    before=$(printf %s "$listed" | sed -n 's/.*[",]release\.before=\([^",]*\).*/\1/p')
}

have() {
    docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >&2 ||
        fail "$1 cannot be pulled: is it pushed, and is this logged in to its registry? ${running:-nothing} runs, as before"
}

# Nobody else may release meanwhile: a container's name is taken once, on the host.
take_lock() {
    name=$(docker compose config | sed -n 's/^name: //p')-release
    docker create --name "$name" "$1" >/dev/null 2>"$work/why" ||
        fail "another release is under way, or was cut short: wait, or \`docker rm -v $name\` ($(tail -n 1 "$work/why"))"
    lock=$name
    look
}

ask() {
    docker compose exec -T api {{ cookiecutter.project_slug }} smoke
}

# Run the image $1, with $2 as the one before it.
start() {
    IMAGE="$1" BEFORE="$2" docker compose up --detach --no-build --wait --wait-timeout "${RELEASE_TIMEOUT:-180}" api && ask
}

# Run the image $1, with $2 as the one before it, or go on with what runs.
replace() {
    start "$1" "$2" && return
    docker compose logs --tail 20 api >&2
    if [ -n "$running" ]; then
        start "$running" "$before" >&2 || fail "neither $1 nor $running, which ran before, becomes healthy: see the logs above"
    else
        docker compose rm --force --stop api >&2
    fi
    fail "$1 does not become healthy, see its log above; ${running:-nothing} runs, as before"
}

look
case $step in
smoke)
    [ -n "$running" ] || fail "nothing runs: roll an image out first"
    ask || exit
    ;;
roll-out)
    have "$image"
    take_lock "$image"
    if [ "$image" = "$running" ]; then replace "$image" "$before"; else replace "$image" "$running"; fi
    ;;
roll-back)
    [ -n "$before" ] || fail "there is nothing to go back to; ${running:-nothing} runs, as before"
    have "$before"
    take_lock "$before"
    replace "$before" ""
    ;;
esac

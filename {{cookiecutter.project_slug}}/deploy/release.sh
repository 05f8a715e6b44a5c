#!/bin/sh
# Release an image on the engine that DOCKER_HOST names: sh deploy/release.sh IMAGE
# If it does not become healthy and answer, the image that ran before runs again.
set -u
cd "$(dirname "$0")" || exit

start() {
    export IMAGE="$1"
    docker compose up --detach --no-build --wait --wait-timeout 180 api &&
        docker compose exec -T api python - <smoke.py
}

running=$(docker compose ps api --format json) || exit
before=$(printf %s "$running" | sed -n 's/.*"Image":"\([^"]*\)".*/\1/p')
start "$1" && exit
docker compose logs --tail 20 api >&2
echo "$1 was not released; back to ${before:-nothing}" >&2
if [ -n "$before" ]; then start "$before"; else docker compose rm --force --stop api; fi
exit 1

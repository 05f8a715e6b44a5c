#!/usr/bin/env bash
# A step from a commit to production: bash deploy/deliver.sh STEP [ENVIRONMENT]
# The steps in their order: check test pipeline gates build scan sbom sign push, then for each of the environments
# staging and production: deploy smoke (roll-back). What delivers calls them, and holds no logic of its own.
# From the environment: IMAGE_NAME (the repository of the image, without a tag).
set -euo pipefail
cd "$(dirname "$0")/.."

slug={{ cookiecutter.project_slug }}
made=build/delivery # what a step tells later ones: `image`, by its digest
IMAGE_NAME=${IMAGE_NAME:-$slug}

fail() {
    echo "error: $1" >&2
    exit 1
}

check() {
    uv lock --check
    uv run ruff check .
    uv run ruff format --check .
    uv run mypy
    uv run lint-imports # project and loop know each other by their public names
    # The loop's rooms, where it lies in packages/
    [ ! -e packages/mlops-loop ] || uv run lint-imports --config packages/mlops-loop/pyproject.toml
}

tests() {
    COVERAGE_CORE=sysmon uv run pytest -n auto --cov # the other core makes them take three times as long
}

pipeline() {
    uv run dvc repro
}

gates() {
    uv run "$slug" promote || [ $? -eq 3 ] # 3: refused, so the champion stays and is what ships
}

build() {
    docker build --file deploy/Dockerfile --tag "$IMAGE_NAME:local" .
}

scan() {
    : # dependencies, secrets, licences
}

sbom() {
    : # of lock file and image
}

sign() {
    : # the bundle
}

push() {
    : # the image, then its signature, bill of materials and provenance
}

deploy() {
    sh deploy/release.sh "$(cat "$made/image")" "$1"
}

smoke() {
    : # ask it a question
}

roll_back() {
    : # to the image before
}

step=${1:-}
case "$step" in
check | pipeline | gates | build | scan | sbom | sign | push) "$step" ;;
test) tests ;;
deploy | smoke | roll-back)
    case "${2:-}" in
    staging | production) "${step/-/_}" "$2" ;;
    *) echo "error: $step needs an environment: staging or production" >&2 && exit 2 ;;
    esac
    ;;
*) echo "error: no step '$step': see the head of deploy/deliver.sh" >&2 && exit 2 ;;
esac

#!/usr/bin/env bash
# A step from a commit to production: bash deploy/deliver.sh STEP [ENVIRONMENT]
#   on a pull request   check test pipeline compare
#   on the main branch  check test pipeline gates build scan sbom sign push,
#                       deploy staging, smoke staging, (an approval), deploy production, smoke production, (roll-back)
#   on a schedule       monitor, or retrain
# The files of the CI system call these and hold no logic. Exit codes: 0 fine, 1 error, 2 wrong usage, 3 the check ran
# and says no. What a step hands to later ones lies in build/delivery: `image` (name@digest), `comparison.md`, and, if it
# is so, `decay` (of monitor) and `promoted` (of retrain).
# From the environment:
#   IMAGE_NAME    the image's repository, without a tag
#   BASE          what a pull request goes into: `check` refuses a contract that breaks its clients, `compare` compares
#   DVC_REMOTE    a remote of .dvc/config [default: its own]
#   DELIVER=champion  deliver what the registry has, also where the gates refuse this commit's model
#   FORCE, REASON     of `retrain`
#   and what `release.sh` and the verbs read
set -euo pipefail
cd "$(dirname "$0")/.."

slug={{ cookiecutter.project_slug }}
step=${1:-}
made=build/delivery
champion=${BUNDLE:-build/champion}
IMAGE_NAME=$(tr '[:upper:]' '[:lower:]' <<<"${IMAGE_NAME:-$slug}") # no registry takes capitals

fail() {
    echo "error: $step: $1" >&2
    exit 1
}

refuse() {
    echo "refused: $step: $1" >&2
    exit 3
}

# Run a linter or tests, whose exit code 1 says no; every other one is an error.
judge() {
    local code=0
    "$@" || code=$?
    case $code in
    0) ;;
    1) refuse "\`$*\` says no, see above" ;;
    *) fail "\`$*\` ended with $code, see above" ;;
    esac
}

read_json() { uv run python -c "import json; it = json.load(open('$1')); print($2)"; }

check() {
    judge uv lock --check
    judge uv run ruff check .
    judge uv run ruff format --check .
    judge uv run mypy
    judge uv run lint-imports # project and loop know each other by their public names
    # The loop's rooms, where it lies in packages/
    [ ! -e packages/mlops-loop ] || judge uv run lint-imports --config packages/mlops-loop/pyproject.toml
    [ -z "${BASE:-}" ] || uv run "$slug" schema check "$BASE" schema.yaml
}

tests() {
    COVERAGE_CORE=sysmon judge uv run pytest -n auto --cov # the other core makes them take three times as long
}

# The remote that data comes from: nothing where it is a folder that is not on this machine.
remote() {
    local name url
    name=${DVC_REMOTE:-$(uv run dvc config core.remote || true)}
    url=$(uv run dvc config "remote.$name.url" 2>/dev/null || true)
    if [ -n "${DVC_REMOTE:-}" ] && [ -z "$url" ]; then
        fail "DVC_REMOTE is '$name', which .dvc/config does not have: uv run dvc remote add $name URL"
    fi
    # A folder's name begins in .dvc
    if [[ $url == *://* ]] || (cd .dvc && [ -n "$url" ] && [ -d "$url" ]); then echo "$name"; fi
}

# What DVC keeps elsewhere is "deleted" in a fresh clone; anything else is out of step.
in_step() {
    uv run dvc status --json >"$made/status.json" || fail "DVC cannot tell whether dvc.lock is in step, see above"
    if grep -Eo '"(modified|new|changed command)"' "$made/status.json" >&2; then
        cat "$made/status.json" >&2
        refuse "dvc.lock is not in step with code, data and parameters: uv run dvc repro, then commit it"
    fi
}

pipeline() {
    local from
    from=$(remote)
    [ ! -e dvc.lock ] || in_step
    if [ -n "$from" ]; then
        uv run dvc pull --remote "$from" ||
            fail "not all data could be had from the remote '$from': uv run dvc push --remote $from where the data is"
    fi
    rm -f "$made/stages.jsonl"
    if ! MLOPS_LOOP_STAGE_STATUS=$PWD/$made/stages.jsonl uv run dvc repro; then
        ! grep -qs '"code": 3' "$made/stages.jsonl" || refuse "a stage's check says no, see above"
        fail "the pipeline stopped, see above"
    fi
}

gates() {
    local code=0
    uv run "$slug" promote || code=$?
    if [ "$code" -eq 3 ] && [ "${DELIVER:-}" = champion ]; then
        code=0 # what the registry has is in $champion now
    fi
    return "$code"
}

# A comparison with the base, in Markdown: metrics and parameters; the plots are pages in build/delivery/plots.
compare() {
    local base
    base=$(git rev-parse --verify --quiet "${BASE:-HEAD^1}") || base=HEAD # the first commit has none
    {
        echo "### Metrics" && uv run dvc metrics diff --all --md "$base"
        echo "### Parameters" && uv run dvc params diff --md "$base"
        echo "### Plots" && echo "Pages with both: ${REPORT_URL:-build/delivery/plots/index.html}"
    } | tee "$made/comparison.md"
    uv run dvc plots diff --out "$made/plots" "$base"
}

build() {
    local group=serve index=()
    [ -e "$champion/bundle.json" ] || fail "no bundle in $champion: bash deploy/deliver.sh gates, which puts the champion there"
    [ ! -e "$champion/model.skops" ] || group=serve-skops
    [ -z "${NETRC:-}" ] || index=(--secret "id=netrc,env=NETRC") # opens a private package index
    docker build --file deploy/Dockerfile --target api --build-arg "SERVE_GROUP=$group" \
        --build-arg "BUNDLE=$champion" "${index[@]}" --tag "$(tag)" . || fail "the image cannot be built, see above"
}

# The image's name before it has a digest: its tag is the commit, where git or the builder knows it.
tag() {
    echo "$IMAGE_NAME:${COMMIT_SHA:-${CODEBUILD_RESOLVED_SOURCE_VERSION:-$(git rev-parse HEAD 2>/dev/null || echo local)}}"
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

attest() {
    : # sign the image $1, its bill of materials and its provenance
}

verify() {
    : # the signatures of the image $1 and its bundle
}

push() {
    local printed digest
    printed=$(docker push "$(tag)") || fail "$(tag) cannot be pushed: is the registry there, and is this logged in to it?"
    digest=$(sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' <<<"$printed")
    [ -n "$digest" ] || fail "the registry gave $(tag) no digest"
    echo "$IMAGE_NAME@$digest" >"$made/image"
    attest "$IMAGE_NAME@$digest"
    cat "$made/image"
}

deploy() {
    local image
    [ -s "$made/image" ] || fail "no image in $made/image: push one first"
    image=$(cat "$made/image")
    verify "$image"
    sh deploy/release.sh roll-out "$image" "$1"
}

smoke() {
    sh deploy/release.sh smoke "$1"
}

roll_back() {
    sh deploy/release.sh roll-back "$1"
}

# Its verdicts are answers, about which people are told; decay asks for a retraining, too.
monitor() {
    local code=0
    rm -f "$made/decay" reports/monitor/latest.json
    uv run "$slug" monitor --evidently || code=$?
    if [ "$code" -eq 3 ] && [ -e reports/monitor/latest.json ]; then
        [ "$(read_json reports/monitor/latest.json "'decay' in it['verdicts']")" = False ] || touch "$made/decay"
        code=0
    fi
    return "$code"
}

# A refusal with a summary is an answer: of the data or of the candidate.
retrain() {
    local code=0 summary=reports/retrain/summary options=(--reason="${REASON:-}")
    [ "${FORCE:-}" != true ] || options+=(--force)
    rm -f "$made/promoted" "$summary.md" "$summary.json" # of another run
    uv run "$slug" retrain "${options[@]}" || code=$?
    if [ "$code" -eq 0 ] && [ -e "$summary.json" ]; then
        [ "$(read_json "$summary.json" "it['promoted']")" = False ] || touch "$made/promoted"
    fi
    if [ "$code" -eq 3 ] && [ -e "$summary.md" ]; then code=0; fi
    return "$code"
}

mkdir -p "$made"
case "$step" in
check | pipeline | gates | compare | build | scan | sbom | sign | push | monitor | retrain) "$step" ;;
test) tests ;;
deploy | smoke | roll-back)
    case "${2:-}" in
    staging | production) "${step/-/_}" "$2" ;;
    *) echo "error: $step needs an environment: staging or production" >&2 && exit 2 ;;
    esac
    ;;
*) echo "error: no step '$step': see the head of deploy/deliver.sh" >&2 && exit 2 ;;
esac

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
#   IMAGE_TAG     where a registry lets no tag be pushed twice, as after a retraining [default: the commit]
#   BASE          what a pull request goes into: `check` refuses a contract that breaks its clients, `compare` compares
#   DVC_REMOTE    a remote of .dvc/config [default: its own]
#   DELIVER=champion  deliver what the registry has, also where the gates refuse this commit's model
#   FORCE, REASON     of `retrain`
#   COSIGN_PRIVATE_KEY, COSIGN_PASSWORD, COSIGN_PUBLIC_KEY  sign and verify; see "Security" in docs/runbook.md
#   AUDIT_IGNORE  accepted vulnerabilities, by id; SKIP_AUDIT=true where no service that knows them can be reached
#   RELEASE       what releases in place of deploy/release.sh
#   and what `release.sh` and the verbs read
set -euo pipefail
cd "$(dirname "$0")/.."

slug={{ cookiecutter.project_slug }}
step=${1:-}
made=build/delivery
champion=${BUNDLE:-build/champion}
# Licences that what ships may not have (LGPL may: it is linked, not copied)
denied='(^|[^L])GPL|GNU General|Affero|AGPL|SSPL|BUSL|Commons Clause'
# What is attached to an image -> its type
predicates=(bundle=https://mlops-loop/bundle lock.cdx=cyclonedx image.cdx=cyclonedx provenance=slsaprovenance1)
signing=() verifying=()
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
    # What is not set is empty, and no error.
    name=${DVC_REMOTE:-$(uv run dvc config core.remote)} || fail "DVC cannot read .dvc/config, see above"
    url=$(uv run dvc config "remote.$name.url") || fail "DVC cannot read .dvc/config, see above"
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

fetch() {
    local from
    from=$(remote)
    [ -n "$from" ] || return 0
    uv run dvc pull --remote "$from" ||
        fail "not all data could be had from the remote '$from': uv run dvc push --remote $from where the data is"
}

pipeline() {
    [ ! -e dvc.lock ] || in_step
    fetch
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
    if ! base=$(git rev-parse --verify --quiet "${BASE:-HEAD^1}"); then
        [ -z "${BASE:-}" ] || fail "BASE is '$BASE', which git does not know here: fetch it, or name another commit"
        base=HEAD # the first commit has none before it
    fi
    {
        echo "### Metrics" && uv run dvc metrics diff --all --md "$base"
        echo "### Parameters" && uv run dvc params diff --md "$base"
        echo "### Plots" && echo "Pages with both: ${REPORT_URL:-build/delivery/plots/index.html}"
    } | tee "$made/comparison.md"
    uv run dvc plots diff --out "$made/plots" "$base"
}

build() {
    local group=serve file=deploy/Dockerfile index=()
    [ -e "$champion/bundle.json" ] || fail "no bundle in $champion: bash deploy/deliver.sh gates, which puts the champion there"
    [ ! -e "$champion/model.skops" ] || group=serve-skops
    [ -z "${NETRC:-}" ] || index=(--secret "id=netrc,env=NETRC") # opens a private package index
    [ ! -e deploy/seldon/Dockerfile ] || file=deploy/seldon/Dockerfile
    docker build --file "$file" --target api --build-arg "SERVE_GROUP=$group" \
        --build-arg "BUNDLE=$champion" "${index[@]}" --tag "$(tag)" . || fail "the image cannot be built, see above"
    if has_jobs; then
        docker build --file deploy/Dockerfile --target pipeline "${index[@]}" --tag "$(tag)-pipeline" . ||
            fail "the image of the jobs cannot be built, see above"
    fi
}

# Jobs that run in a cluster have an image of their own.
has_jobs() { [ -d deploy/kubernetes/components/jobs ]; }

# The image's name before it has a digest: its tag is the commit, where git or the builder knows it.
tag() {
    echo "$IMAGE_NAME:${IMAGE_TAG:-$(commit)}"
}

commit() { echo "${COMMIT_SHA:-${CODEBUILD_RESOLVED_SOURCE_VERSION:-$(git rev-parse HEAD 2>/dev/null || echo local)}}"; }

# A tool of the group `supply`, at the version in uv.lock, in an environment of its own.
tool() { UV_PROJECT_ENVIRONMENT=build/supply/env uv run --quiet --frozen --only-group supply "$@"; }

need() { command -v "$1" >/dev/null || fail "$1 is not installed: $2"; }

# The group that the image holds.
serves() { if [ -e "$champion/model.skops" ]; then echo serve-skops; else echo serve; fi; }

scan() {
    need jq "https://jqlang.org/download"
    secrets
    licences
    audit
}

# A line with `pragma: allowlist secret` is no secret, nor is one that takes it from elsewhere.
secrets() {
    local code=0
    git ls-files -z >"$made/tracked" || fail "secrets are looked for in the files that git knows, and this is no repository: git init"
    # The hook ends with 1 if it found something. The loop's own tests are full of made-up keys.
    tool xargs -0 -a "$made/tracked" detect-secrets-hook --no-verify --exclude-lines '\$\{\{|=\$\(|secretName:|secretsmanager:' \
        --exclude-files '^(uv\.lock|packages/mlops-loop/tests/.*)$' >"$made/secrets" 2>&1 || code=$?
    [ "$code" -ne 0 ] || return 0
    grep -E '^(Secret Type|Location):' "$made/secrets" >&2 || { cat "$made/secrets" >&2 && fail "detect-secrets failed, see above"; }
    refuse "a secret lies there: revoke it and take it out, or mark its line with 'pragma: allowlist secret'"
}

# Of what the image holds: all of them in build/delivery/licences.json.
licences() {
    local found
    if ! UV_PROJECT_ENVIRONMENT=build/supply/served uv sync --quiet --frozen --no-default-groups --group "$(serves)" ||
        ! tool pip-licenses --python=build/supply/served/bin/python --from=mixed --format=json >"$made/licences.json"; then
        fail "the licences cannot be listed, see above"
    fi
    found=$(jq -r --arg denied "$denied" \
        '.[] | select(.License | test($denied)) | "  \(.Name) \(.Version): \(.License)"' "$made/licences.json")
    [ -z "$found" ] || { echo "$found" >&2 && refuse "a licence above is denied: replace the package, or change 'denied' in deploy/deliver.sh"; }
}

# Known vulnerabilities of what the image holds.
audit() {
    local found code=0
    if [ "${SKIP_AUDIT:-}" = true ]; then
        echo "warning: $step: SKIP_AUDIT is set: known vulnerabilities were not looked for" >&2
        return
    fi
    uv export --quiet --frozen --no-emit-workspace --no-default-groups --group "$(serves)" --output-file "$made/shipped.txt" >/dev/null
    rm -f "$made/audit.json"
    tool pip-audit --strict --disable-pip --progress-spinner=off --requirement "$made/shipped.txt" --format json \
        --output "$made/audit.json" ${AUDIT_IGNORE:+$(printf -- '--ignore-vuln %s ' $AUDIT_IGNORE)} 2>"$made/audit.log" || code=$?
    [ "$code" -ne 0 ] || return 0
    found=$(jq -r '.dependencies[] | select(.vulns != []) |
        "  \(.name) \(.version): \([.vulns[] | "\(.id) (fixed in \(.fix_versions | join(", ")))"] | join("; "))"' "$made/audit.json" 2>/dev/null || true)
    if [ -n "$found" ]; then
        echo "$found" >&2
        refuse "known vulnerabilities: uv lock --upgrade-package NAME, or accept one with AUDIT_IGNORE=ID"
    fi
    tail -n 1 "$made/audit.log" >&2
    fail "known vulnerabilities could not be looked up: mend the way to the service, or set SKIP_AUDIT=true on a machine without one"
}

# CycloneDX: what the lock file says the image holds, and what is found in it.
sbom() {
    uv export --quiet --frozen --format cyclonedx1.5 --no-default-groups --group "$(serves)" \
        --output-file "$made/lock.cdx.json" >/dev/null 2>&1 || fail "uv cannot export uv.lock: uv lock"
    docker image inspect "$(tag)" >/dev/null 2>&1 || fail "no image $(tag): bash deploy/deliver.sh build"
    SYFT_CHECK_FOR_APP_UPDATE=false tool syft scan --quiet "docker:$(tag)" --output "cyclonedx-json@1.5=$made/image.cdx.json" ||
        fail "syft cannot read $(tag), see above"
}

# SHA-256 of each file of a folder.
manifest() {
    (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
}

# What signs: a key (COSIGN_PRIVATE_KEY: the content of cosign.key, or a reference such as awskms:///alias/NAME), or
# on GitHub, without a key, the workflow itself. A key's signatures need no transparency log, and so no network.
signer() {
    need cosign "https://docs.sigstore.dev/cosign/system_config/installation"
    if [ -n "${COSIGN_PRIVATE_KEY:-}" ]; then
        signing=(--tlog-upload=false --key "$(key "$COSIGN_PRIVATE_KEY" COSIGN_PRIVATE_KEY)")
        ! cosign sign --help | grep -q use-signing-config || signing+=(--use-signing-config=false) # from 3.0 on
    elif [ -e deploy/cosign.pub ] || [ -z "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ]; then
        fail "COSIGN_PRIVATE_KEY is not set: cosign generate-key-pair, keep cosign.key and its COSIGN_PASSWORD as secrets, commit cosign.pub as deploy/cosign.pub"
    fi
    export COSIGN_PASSWORD=${COSIGN_PASSWORD:-} # or it would be asked for
}

# What a signature is verified with, likewise.
verifier() {
    need cosign "https://docs.sigstore.dev/cosign/system_config/installation"
    if [ -n "${COSIGN_PUBLIC_KEY:-}" ]; then
        verifying=(--insecure-ignore-tlog --key "$(key "$COSIGN_PUBLIC_KEY" COSIGN_PUBLIC_KEY)")
    elif [ -e deploy/cosign.pub ]; then
        verifying=(--insecure-ignore-tlog --key deploy/cosign.pub)
    elif [ -n "${GITHUB_WORKFLOW_REF:-}" ]; then
        verifying=(--certificate-oidc-issuer https://token.actions.githubusercontent.com
            --certificate-identity "$GITHUB_SERVER_URL/$GITHUB_WORKFLOW_REF")
    else
        fail "no public key: commit the cosign.pub of the key that signs as deploy/cosign.pub, or set COSIGN_PUBLIC_KEY"
    fi
}

key() { case $1 in -----BEGIN*) echo "env://$2" ;; *) echo "$1" ;; esac; }

# cosign says much; its last line is the reason.
quietly() { "$@" >"$made/cosign.log" 2>&1 || { tail -n 1 "$made/cosign.log" >&2 && return 1; }; }

sign() {
    signer
    [ -e "$champion/bundle.json" ] || fail "no bundle in $champion: bash deploy/deliver.sh gates"
    manifest "$champion" >"$made/bundle.sha256"
    quietly cosign sign-blob --yes "${signing[@]}" --bundle "$made/bundle.sigstore.json" "$made/bundle.sha256" ||
        fail "the bundle cannot be signed, see above"
}

# Whether the bundle in image $1 is the one of manifest $2.
same_bundle() {
    local container
    rm -rf "$made/bundle"
    container=$(docker create "$1") || fail "$1 cannot be had, see above"
    docker cp --quiet "$container:/app/bundle" "$made/bundle" >/dev/null
    docker rm --volumes "$container" >/dev/null
    manifest "$made/bundle" | diff "$2" - >&2
}

# Sign image $1, and attach its bundle's manifest, its bills of materials and its provenance.
attest() {
    local type
    signer
    jq --null-input --rawfile files "$made/bundle.sha256" \
        '{files: ($files | split("\n") | map(select(. != "") | {(.[66:]): .[:64]}) | add)}' >"$made/bundle.json"
    provenance >"$made/provenance.json"
    quietly cosign sign --yes "${signing[@]}" "$1" || fail "$1 cannot be signed, see above"
    for type in "${predicates[@]}"; do
        quietly cosign attest --yes "${signing[@]}" --type "${type#*=}" --predicate "$made/${type%%=*}.json" "$1" ||
            fail "$made/${type%%=*}.json cannot be attached to $1, see above"
    done
}

# SLSA 1.0: who built it, from what, how.
provenance() {
    jq --null-input --arg source "$(git config remote.origin.url | sed 's#//[^/@]*@#//#')" --arg commit "$(commit)" \
        --arg builder "${GITHUB_WORKFLOW_REF:-${CODEBUILD_BUILD_ARN:-${BUILDER_ID:-$(hostname)}}}" \
        --arg run "${GITHUB_RUN_ID:-${CODEBUILD_BUILD_ID:-${BUILD_ID:-}}}" \
        --arg lock "$(sha256sum <uv.lock | cut -c-64)" --arg bundle "$(sha256sum <"$made/bundle.sha256" | cut -c-64)" \
        '{buildDefinition: {
            buildType: "https://docs.docker.com/build/building/packaging/",
            externalParameters: {dockerfile: "deploy/Dockerfile", target: "api"},
            resolvedDependencies: [
              {uri: "git+\($source)", digest: {gitCommit: $commit}},
              {uri: "file:uv.lock", digest: {sha256: $lock}},
              {uri: "file:bundle.sha256", digest: {sha256: $bundle}}]},
          runDetails: {builder: {id: $builder}, metadata: {invocationId: $run, finishedOn: (now | todate)}}}'
}

# Refuse the image $1 unless our key signed it, its attachments, and the bundle in it.
verify() {
    local type
    need jq "https://jqlang.org/download"
    verifier
    quietly cosign verify "${verifying[@]}" "$1" || refuse "$1 has no signature that this key verifies, see above"
    for type in "${predicates[@]}"; do
        cosign verify-attestation "${verifying[@]}" --type "${type#*=}" "$1" >"$made/verified.json" 2>"$made/cosign.log" ||
            { tail -n 1 "$made/cosign.log" >&2 && refuse "$1 has no signed ${type%%=*}, see above"; }
        [ "${type%%=*}" != bundle ] ||
            jq -rs 'last | .payload | @base64d | fromjson | .predicate.files | to_entries[] | "\(.value)  \(.key)"' \
                "$made/verified.json" >"$made/verified.sha256"
    done
    same_bundle "$1" "$made/verified.sha256" || refuse "the bundle in $1 is not the one that was signed: it differs in the files above"
}

push() {
    local image jobs
    [ -s "$made/bundle.sigstore.json" ] || fail "the bundle is not signed: bash deploy/deliver.sh sign"
    manifest "$champion" | diff "$made/bundle.sha256" - >&2 ||
        refuse "$champion is not what was signed: the files above differ; find out who changed them, then gates, build and sign again"
    same_bundle "$(tag)" "$made/bundle.sha256" || refuse "$(tag) holds another bundle than was signed: build and sign again"
    rm -f "$made/pipeline-image"
    image=$(pushed "$(tag)")
    attest "$image"
    if has_jobs; then
        jobs=$(pushed "$(tag)-pipeline")
        quietly cosign sign --yes "${signing[@]}" "$jobs" || fail "$jobs cannot be signed, see above"
        echo "$jobs" >"$made/pipeline-image"
    fi
    echo "$image" | tee "$made/image"
}

# Push an image; print its name by its digest.
pushed() {
    local printed digest
    printed=$(docker push "$1") || fail "$1 cannot be pushed: is the registry there, and is this logged in to it?"
    digest=$(sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' <<<"$printed")
    [ -n "$digest" ] || fail "the registry gave $1 no digest"
    echo "$IMAGE_NAME@$digest"
}

deploy() {
    local image
    [ -s "$made/image" ] || fail "no image in $made/image: push one first"
    image=$(cat "$made/image")
    verify "$image"
    [ ! -s "$made/pipeline-image" ] || quietly cosign verify "${verifying[@]}" "$(cat "$made/pipeline-image")" ||
        refuse "$(cat "$made/pipeline-image") has no signature that this key verifies, see above"
    sh "${RELEASE:-deploy/release.sh}" roll-out "$image" "$1"
}

smoke() {
    sh "${RELEASE:-deploy/release.sh}" smoke "$1"
}

roll_back() {
    sh "${RELEASE:-deploy/release.sh}" roll-back "$1"
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
    fetch
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

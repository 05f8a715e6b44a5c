#!/usr/bin/env bash
# Create what needs.txt lists, as deploy/google/settings.env says: bash deploy/google/setup.sh
# It may run again: what is there already stays as it is, and triggers and targets are brought up to date.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/google/settings.sh

slug={{ cookiecutter.project_slug }}
export CLOUDSDK_CORE_PROJECT=$PROJECT_ID

fail() {
    echo "error: $1" >&2
    exit 1
}

email() { echo "$ACCOUNT-$1@$PROJECT_ID.iam.gserviceaccount.com"; }

# The lines of one kind: needs KIND
needs() { cat deploy/google/needs.txt deploy/google/*/needs.txt | sed -n "s/^$1 //p"; }

# A file with the settings in it
filled() {
    local text name
    text=$(<"$1")
    for name in PROJECT_ID REGION CONNECTION REPOSITORY MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME PREDICTION_LOG_URL \
        CLOUD_SQL CLUSTER_STAGING CLUSTER_PRODUCTION ACCOUNT BUCKET; do
        text=${text//\$$name/${!name:-}}
    done
    printf '%s\n' "$text" >"$scratch/filled.yaml"
    echo "$scratch/filled.yaml"
}

# Run the second command unless the first finds it: unless "describe ..." create ...
unless() {
    # shellcheck disable=SC2086
    gcloud $1 >/dev/null 2>&1 </dev/null || gcloud "${@:2}" </dev/null
}

grant() { # ACCOUNT ROLE ON
    local on=()
    case $3 in
    project) on=(projects add-iam-policy-binding "$PROJECT_ID" --condition=None) ;;
    registry) on=(artifacts repositories add-iam-policy-binding "$slug" "--location=$REGION") ;;
    bucket) on=(storage buckets add-iam-policy-binding "gs://$BUCKET") ;;
    key) on=(kms keys add-iam-policy-binding sign "--keyring=$slug" "--location=$REGION") ;;
    account:*) on=(iam service-accounts add-iam-policy-binding "$(email "${3#*:}")") ;;
    secret:*) on=(secrets add-iam-policy-binding "$slug-${3#*:}") ;;
    *) fail "needs.txt: no resource '$3'" ;;
    esac
    gcloud "${on[@]}" "--member=serviceAccount:$(email "$1")" "--role=$2" >/dev/null </dev/null
}

scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
for name in REGION CONNECTION REPOSITORY MLFLOW_TRACKING_URI CLOUD_SQL; do
    [ -n "${!name}" ] || fail "$name is empty: set it in deploy/google/settings.env"
done
mapfile -t apis < <(needs api)
gcloud services enable "${apis[@]}"
gcloud builds repositories describe "$REPOSITORY" "--connection=$CONNECTION" "--region=$REGION" >/dev/null ||
    fail "Cloud Build does not know the repository: the first commands in docs/google-cloud-build.md connect it"
unless "artifacts repositories describe $slug --location=$REGION" \
    artifacts repositories create "$slug" --repository-format=docker "--location=$REGION"
unless "storage buckets describe gs://$BUCKET" \
    storage buckets create "gs://$BUCKET" "--location=$REGION" --uniform-bucket-level-access --public-access-prevention
unless "kms keyrings describe $slug --location=$REGION" kms keyrings create "$slug" "--location=$REGION"
unless "kms keys describe sign --keyring=$slug --location=$REGION" kms keys create sign "--keyring=$slug" \
    "--location=$REGION" --purpose=asymmetric-signing --default-algorithm=ec-sign-p256-sha256
needs account | while read -r name; do
    unless "iam service-accounts describe $(email "$name")" iam service-accounts create "$ACCOUNT-$name"
done
needs secret | while read -r name; do
    unless "secrets describe $slug-$name" secrets create "$slug-$name" --replication-policy=automatic
done
needs role | while read -r account role on; do grant "$account" "$role" "$on"; done
gcloud builds triggers import "--source=$(filled deploy/google/triggers.yaml)" "--region=$REGION"
gcloud deploy apply "--file=$(filled deploy/google/delivery.yaml)" "--region=$REGION"
needs schedule | while read -r name cron; do
    unless "scheduler jobs describe $slug-$name --location=$REGION" scheduler jobs create http "$slug-$name" \
        "--location=$REGION" "--schedule=$cron" --http-method=POST --message-body='{}' \
        "--uri=https://cloudbuild.googleapis.com/v1/projects/$PROJECT_ID/locations/$REGION/triggers/$slug-$name:run" \
        "--oauth-service-account-email=$(email schedule)"
done
echo "Ready. Give the secrets their values (docs/google-cloud-build.md), then: uv run $slug doctor --ci"

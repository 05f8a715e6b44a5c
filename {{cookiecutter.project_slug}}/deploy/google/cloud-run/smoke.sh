# One real question to the service of $environment, asked by a job of the same image, which may read the keys.
file=deploy/google/cloud-run/$environment.yaml
service=$(sed -n 's/^  name: //p' "$file")
at="--project=$PROJECT_ID --region=$REGION"
# shellcheck disable=SC2086
url=$(gcloud run services describe "$service" $at '--format=value(status.url)') || fail "no service $service, see above"
# shellcheck disable=SC2086
image=$(gcloud run services describe "$service" $at '--format=value(spec.template.spec.containers[0].image)')
# shellcheck disable=SC2086
gcloud run jobs deploy "$service-smoke" $at "--image=$image" "--command=$pipeline" "--args=smoke,$url" \
    "--set-secrets=API_KEYS=$pipeline-$environment-api-keys:latest" --max-retries=0 --task-timeout=60s \
    "--service-account=$ACCOUNT-run@$PROJECT_ID.iam.gserviceaccount.com" --execute-now --wait --quiet ||
    fail "the API at $url fails its smoke test: see the logs of the job $service-smoke"

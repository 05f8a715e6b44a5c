# Run a verb of the project in a copy of it. Exit code 3 says no, which is an answer and no failure of the job.
set -eu
export HOME=/tmp
cp -R /app /tmp/project
cd /tmp/project
[ -z "${DVC_REMOTE:-}" ] || dvc pull --remote "$DVC_REMOTE" --allow-missing
trap 'kill -TERM "$verb"' TERM # the shell is process 1, and would keep it to itself
{{ cookiecutter.project_slug }} "$@" &
verb=$!
code=0
wait "$verb" || code=$?
[ "$code" -le 128 ] || { code=0 && wait "$verb" || code=$?; } # the signal ended the first wait, not the verb
if [ "$1" = retrain ] && [ ! -e reports/retrain/summary.json ]; then exit "$code"; fi
[ "$code" -eq 3 ] || exit "$code"

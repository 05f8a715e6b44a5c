# The settings, as variables: `. deploy/google/settings.sh` in the project's folder.
for file in deploy/google/settings.env deploy/google/*/settings.env; do
    # shellcheck source=/dev/null
    [ ! -e "$file" ] || . "./$file"
done
[ -n "$PROJECT_ID" ] || { echo "error: PROJECT_ID is empty: set it in deploy/google/settings.env" >&2 && exit 1; }
export CLOUDSDK_CORE_DISABLE_PROMPTS=1

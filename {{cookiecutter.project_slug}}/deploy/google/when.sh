#!/usr/bin/env bash
# Run a command if a step of deliver.sh left that file in build/delivery: when.sh FILE COMMAND...
set -euo pipefail
[ ! -e "build/delivery/$1" ] || exec "${@:2}"

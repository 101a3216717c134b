#!/usr/bin/env bash
# Sets up the environment where there is none, then runs the tests; takes
# run_tests.py's options.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
exec python run_tests.py "$@"

#!/usr/bin/env bash
# Usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] tools/dist_test.sh CONFIG CHECKPOINT GPUS [test.py ARGUMENT...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

[ $# -ge 3 ] || die "usage: $0 CONFIG CHECKPOINT GPUS [test.py ARGUMENT...]"
launch test.py "$1" "$3" "$2" "${@:4}"

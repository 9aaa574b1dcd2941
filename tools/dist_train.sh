#!/usr/bin/env bash
# Usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] tools/dist_train.sh CONFIG GPUS [train.py ARGUMENT...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

[ $# -ge 2 ] || die "usage: $0 CONFIG GPUS [train.py ARGUMENT...]"
launch train.py "$@"

#!/usr/bin/env bash
# Usage: [GPUS= GPUS_PER_NODE= CPUS_PER_TASK= SRUN_ARGS=] tools/slurm_test.sh \
#            PARTITION JOB_NAME CONFIG CHECKPOINT [test.py ARGUMENT...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

[ $# -ge 4 ] || die "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [test.py ARGUMENT...]"
run_on_slurm "$1" "$2" test.py "$3" "$4" "${@:5}"

#!/usr/bin/env bash
# Usage: [GPUS= GPUS_PER_NODE= CPUS_PER_TASK= SRUN_ARGS=] tools/slurm_train.sh \
#            PARTITION JOB_NAME CONFIG WORK_DIR [train.py ARGUMENT...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

[ $# -ge 4 ] || die "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [train.py ARGUMENT...]"
run_on_slurm "$1" "$2" train.py "$3" --work-dir="$4" "${@:5}"

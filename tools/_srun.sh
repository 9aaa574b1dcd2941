# Sourced by slurm_train.sh and slurm_test.sh: runs a tool under srun, one task per GPU.
#
# Environment: GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS as in MMDetection; PYTHON, the
# interpreter.

die() {
    echo "error: $*" >&2
    exit 1
}

# run_on_slurm PARTITION JOB_NAME TOOL CONFIG [ARGUMENT...]
run_on_slurm() {
    local partition=$1 job=$2 tool=$3 config=$4
    shift 4
    local per_node=${GPUS_PER_NODE:-8} tools root
    tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    root=$(dirname "$tools")
    local extra=()
    read -ra extra <<<"${SRUN_ARGS:-}"

    [ -f "$config" ] || die "config '$config' does not exist"
    command -v srun >/dev/null || die "no srun here: run this on a Slurm login node"
    set -x
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec srun \
        --partition="$partition" --job-name="$job" \
        --gres="gpu:$per_node" --ntasks="${GPUS:-8}" --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 "${extra[@]}" \
        "${PYTHON:-python}" -u "$tools/$tool" "$config" "$@" --launcher=slurm
}

# Sourced by the launchers: starts the processes of a tool with torchrun (dist_*.sh) or under srun (slurm_*.sh).
#
# Environment as in MMDetection: NNODES, NODE_RANK, MASTER_ADDR, PORT for torchrun; GPUS, GPUS_PER_NODE, CPUS_PER_TASK,
# SRUN_ARGS for srun. PYTHON is the interpreter.

die() {
    echo "error: $*" >&2
    exit 1
}

# A file, or a config of a package: mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
check_config() {
    [[ -f $1 || $1 == *::* ]] || die "config '$1' does not exist"
}

# launch TOOL CONFIG GPUS [ARGUMENT...]
launch() {
    local tool=$1 config=$2 gpus=$3
    shift 3
    local python=${PYTHON:-python}
    local nnodes=${NNODES:-1} node_rank=${NODE_RANK:-0}
    local addr=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
    local tools root
    tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    root=$(dirname "$tools")

    check_config "$config"
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || die "GPUS must be the number of processes, but is '$gpus'"
    command -v "$python" >/dev/null || die "no '$python' here: activate .venv, or set PYTHON"
    [[ $port =~ ^[0-9]{1,5}$ ]] && ((10#$port < 65536)) || die "PORT must be a number below 65536, but is '$port'"
    if [ "$node_rank" = 0 ] && ! port_is_free "$python" "$port"; then
        die "port $port is in use: set another, e.g. PORT=$((port + 1))"
    fi
    # The repository first: a run needs no installation, and never takes another checkout's code.
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m torch.distributed.run \
        --nnodes="$nnodes" --node_rank="$node_rank" --nproc_per_node="$gpus" \
        --master_addr="$addr" --master_port="$port" \
        "$tools/$tool" "$config" "$@" --launcher pytorch
}

port_is_free() {
    "$1" -c '
import socket, sys
with socket.socket() as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", int(sys.argv[1])))' "$2" 2>/dev/null
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

    check_config "$config"
    command -v srun >/dev/null || die "no srun here: run this on a Slurm login node"
    set -x
    PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec srun \
        --partition="$partition" --job-name="$job" \
        --gres="gpu:$per_node" --ntasks="${GPUS:-8}" --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${extra[@]+"${extra[@]}"} \
        "${PYTHON:-python}" -u "$tools/$tool" "$config" "$@" --launcher=slurm
}

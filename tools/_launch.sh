# Sourced by dist_train.sh and dist_test.sh: starts GPUS processes of a tool with torchrun.
#
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT as in MMDetection; PYTHON, the interpreter.

die() {
    echo "error: $*" >&2
    exit 1
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

    [ -f "$config" ] || die "config '$config' does not exist"
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || die "GPUS must be the number of processes, but is '$gpus'"
    command -v "$python" >/dev/null || die "no '$python' here: activate .venv, or set PYTHON"
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

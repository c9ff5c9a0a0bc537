#!/usr/bin/env bash
# One job on a Slurm cluster: sbatch deploy/slurm.sh python -m jobs.pipeline configs/pipeline/demo.yaml output=$PWD/runs/x
#
# Submit from the checkout, on a file system that all nodes share, after `make setup` on a node of the same kind.
# `ray symmetric-run` starts Ray on every node, runs the command on the first one, and stops Ray after it.
# Run on two nodes of one machine in tests/slow/test_slurm.py; NOT run on Slurm.
#SBATCH --job-name=safety-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch deploy/slurm.sh COMMAND..." >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?is set by sbatch}"
source .venv/bin/activate

# Other users of the nodes cannot start tasks without the token. It is passed by environment, never as an argument.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}  # `| head -n 1` could end scontrol, and so this script, with SIGPIPE
# Two jobs on one machine must not share a port.
port=$((20000 + SLURM_JOB_ID % 10000))
# Ray's limits are 30 seconds for the other nodes to join and 40 for the first one to start: short for an
# environment on a busy file system. The first can be set; for the second, the others wait for the first node's port.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}"
task='for _ in {1..300}; do
  [ "$SLURM_PROCID" = 0 ] || (: >"/dev/tcp/$0/$1") 2>/dev/null || { sleep 2; continue; }
  break
done
shift; exec ray symmetric-run "$@"'
# `ray symmetric-run` does not tell the command where the cluster is, and ends with 0 if Ray does not start.
started=$(mktemp)
trap 'rm -f "$started"' EXIT
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" bash -c "$task" "$first" "$port" \
  --address "$first:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  env RAY_ADDRESS="$first:$port" bash -c 'echo >"$0"; exec "$@"' "$started" "$@"
[ -s "$started" ] || { echo "error: Ray did not start on $first; see the lines above" >&2; exit 1; }

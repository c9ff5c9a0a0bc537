#!/usr/bin/env bash
# One job on a Slurm cluster: sbatch deploy/slurm.sh python -m jobs.pipeline configs/pipeline/demo.yaml output=$PWD/runs/x
#
# Submit from the checkout, on a file system that all nodes share, after `make setup` on a node of the same kind.
# `ray symmetric-run` starts Ray on every node, runs the command on the first one, and stops Ray after it.
# Checked in tests/test_deploy_files.py; NOT run on Slurm.
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

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Two jobs on one machine must not share a port.
port=$((20000 + SLURM_JOB_ID % 10000))
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$first:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- "$@"

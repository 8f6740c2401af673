#!/usr/bin/env bash
# One experiment, or one agent of a W&B sweep, as a SLURM job. From the project's folder:
#
#   sbatch jobs/slurm.sh model=vae data=binarised_mnist trainer=gpu
#   sbatch --gres=gpu:4 --ntasks-per-node=4 jobs/slurm.sh trainer=ddp trainer.devices=4
#   SWEEP=entity/project/id sbatch --array=1-8 jobs/slurm.sh
#
# Options of sbatch on the command line win over those below: -p PARTITION -A ACCOUNT --time=...
# A job that is preempted, or runs out of time, is queued again and goes on from its last checkpoint.
#
#SBATCH --job-name=latentlab
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

PROJECT="${PROJECT:-${SLURM_SUBMIT_DIR:-$PWD}}" # the folder with train.py
PYTHON="${PYTHON:-$PROJECT/.venv/bin/python}"
RUN_DIR="${RUN_DIR:-$PROJECT/outputs/slurm-${SLURM_JOB_ID:?to be started with sbatch}}"
SWEEP="${SWEEP:-}"     # entity/project/id: run an agent of this W&B sweep
COUNT="${COUNT:-1}"    # how many runs the agent takes
export LATENTLAB_DATA="${LATENTLAB_DATA:-$PROJECT/data}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

cd "$PROJECT"
if [[ -n $SWEEP ]]; then
    # The agent starts `python` from the PATH.
    PATH="$(dirname "$PYTHON"):$PATH" exec srun --ntasks=1 "$PYTHON" -m wandb agent --count "$COUNT" "$SWEEP"
fi

if [[ -f $RUN_DIR/summary.json ]]; then
    echo "$RUN_DIR is finished"
    exit 0
fi
resume=()
last="$RUN_DIR/checkpoints/last.ckpt"
if [[ -f $last ]]; then
    resume=("ckpt_path='$last'")
fi

queue_again() {
    kill -TERM "$training" 2>/dev/null || true
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap queue_again USR1

srun "$PYTHON" train.py "$@" "hydra.run.dir='$RUN_DIR'" ${resume[@]+"${resume[@]}"} &
training=$!
wait "$training"

#!/usr/bin/env bash
# One experiment, or one agent of a W&B sweep, as a SLURM job. Submit it from the project's folder:
#
#   sbatch jobs/slurm.sh model=vae data=binarised_mnist trainer=gpu
#   sbatch --gres=gpu:4 --ntasks-per-node=4 jobs/slurm.sh trainer=ddp trainer.devices=4
#   SWEEP=entity/project/id sbatch --array=1-8 jobs/slurm.sh
#
# Options of sbatch on the command line override those below, e.g. -p PARTITION -A ACCOUNT --time=...
# A job that is preempted or runs out of time is requeued, and resumes from its last checkpoint.
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

export PROJECT="${PROJECT:-${SLURM_SUBMIT_DIR:-$PWD}}" LAUNCH=srun
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
run_dir="${RUN_DIR:-$PROJECT/outputs/slurm-${SLURM_JOB_ID:?start this script with sbatch}}"

if [[ -n ${SWEEP:-} ]]; then
    exec bash "$PROJECT/jobs/run.sh" "$run_dir" "$@"
fi

requeue() {
    # A signal to srun would end its tasks at once. This one lets them save.
    scancel --signal=TERM "$SLURM_JOB_ID"
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue USR1

bash "$PROJECT/jobs/run.sh" "$run_dir" "$@" &
training=$!
wait "$training"

#!/usr/bin/env bash
# One experiment, or one agent of a W&B sweep, as an LSF job. From the project's folder:
#
#   OVERRIDES="model=vae data=binarised_mnist trainer=gpu" bsub < jobs/lsf.sh
#   SWEEP=entity/project/id bsub -J "latentlab[1-8]" < jobs/lsf.sh
#
# Options of bsub on the command line win over those below: -q QUEUE -W 24:00 -gpu "num=2:mode=exclusive_process"
# A job that is queued again, by its host's failure or with `brequeue`, goes on from its last checkpoint.
#
#BSUB -J latentlab
#BSUB -q gpu
#BSUB -n 4
#BSUB -R "span[hosts=1] rusage[mem=4GB]"
#BSUB -gpu "num=1:mode=exclusive_process"
#BSUB -W 4:00
#BSUB -wt 2 -wa TERM
#BSUB -r
#BSUB -o latentlab-%J.out
set -euo pipefail

PROJECT="${PROJECT:-${LS_SUBCWD:-$PWD}}" # the folder with train.py
PYTHON="${PYTHON:-$PROJECT/.venv/bin/python}"
RUN_DIR="${RUN_DIR:-$PROJECT/outputs/lsf-${LSB_JOBID:?to be started with bsub}}"
OVERRIDES="${OVERRIDES:-}" # of train.py; bsub passes no arguments to a script that it reads
SWEEP="${SWEEP:-}"         # entity/project/id: run an agent of this W&B sweep
COUNT="${COUNT:-1}"        # how many runs the agent takes
export LATENTLAB_DATA="${LATENTLAB_DATA:-$PROJECT/data}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${LSB_DJOB_NUMPROC:-1}}"

cd "$PROJECT"
if [[ -n $SWEEP ]]; then
    # The agent starts `python` from the PATH.
    PATH="$(dirname "$PYTHON"):$PATH" exec "$PYTHON" -m wandb agent --count "$COUNT" "$SWEEP"
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
read -r -a overrides <<< "$OVERRIDES"

exec "$PYTHON" train.py ${overrides[@]+"${overrides[@]}"} "$@" "hydra.run.dir='$RUN_DIR'" ${resume[@]+"${resume[@]}"}

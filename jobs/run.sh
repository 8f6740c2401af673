#!/usr/bin/env bash
# The part of a job that SLURM and LSF share: `run.sh RUN_DIR OVERRIDES ...` trains in RUN_DIR and resumes there.
# With SWEEP=entity/project/id it runs an agent of that W&B sweep instead.
# Variables: PROJECT (the folder with train.py), PYTHON, LATENTLAB_DATA, and LAUNCH (a command such as srun).
set -euo pipefail

PYTHON="${PYTHON:-$PROJECT/.venv/bin/python}"
export LATENTLAB_DATA="${LATENTLAB_DATA:-$PROJECT/data}"
RUN_DIR="$1"
shift

cd "$PROJECT"
if [[ -n ${SWEEP:-} ]]; then
    # The agent starts `python` from the PATH.
    export PATH="$(dirname "$PYTHON"):$PATH"
    exec ${LAUNCH:+$LAUNCH --ntasks=1} "$PYTHON" -m wandb agent --count "${COUNT:-1}" "$SWEEP"
fi

if [[ -f $RUN_DIR/summary.json ]]; then
    echo "$RUN_DIR is finished"
    exit 0
fi
# Also after a new submission with the same RUN_DIR, which is not a requeued job.
last="$RUN_DIR/checkpoints/last.ckpt"
[[ -f $last ]] && set -- "$@" "ckpt_path='$last'"
exec ${LAUNCH:-} "$PYTHON" train.py "$@" "hydra.run.dir='$RUN_DIR'"

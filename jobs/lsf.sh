#!/usr/bin/env bash
# One experiment, or one agent of a W&B sweep, as an LSF job. Submit it from the project's folder:
#
#   OVERRIDES="model=vae data=binarised_mnist trainer=gpu" bsub < jobs/lsf.sh
#   SWEEP=entity/project/id bsub -J "latentlab[1-8]" < jobs/lsf.sh
#
# Options of bsub on the command line override those below, e.g. -q QUEUE -W 24:00 -gpu "num=2:mode=exclusive_process"
# A job that is requeued, after a failure of its host or by `brequeue`, resumes from its last checkpoint.
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

export PROJECT="${PROJECT:-${LS_SUBCWD:-$PWD}}" LAUNCH=
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${LSB_DJOB_NUMPROC:-1}}"
run_dir="${RUN_DIR:-$PROJECT/outputs/lsf-${LSB_JOBID:?start this script with bsub}}"
# bsub passes no arguments to a script that it reads from standard input.
read -r -a overrides <<< "${OVERRIDES:-}"

exec bash "$PROJECT/jobs/run.sh" "$run_dir" ${overrides[@]+"${overrides[@]}"} "$@"

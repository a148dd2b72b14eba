#!/bin/bash
# One trial of a sweep, as an agent starts it: trial.sh METHOD --model.lr=... Its folder is named by its W&B id. The
# data, the recipe and so on come from the environment, where `make agents` has put them.
cd "$(dirname "$0")/../.." || exit
method=$1
run=sweeps/$WANDB_SWEEP_ID/$WANDB_RUN_ID
folder=${RUNS:=runs}/$run/${STAGE:=video}
command=$(env -u MAKEFLAGS -u MAKELEVEL make --no-print-directory -s command STAGE="$STAGE" METHOD="$method" RUNS="$RUNS" RUN="$run") || exit

if [ -z "$TRIAL" ]; then # not in a job: one process
    exec $command "${@:2}"
fi

source experiments/slurm/job.sh
mkdir -p "$folder"
{
    (unset WANDB_API_KEY; declare -px "${!WANDB_@}" STAGE DATA DATA_ROOT RECIPE WEIGHTS PRECISION RUNS ARGS 2>/dev/null)
    printf '%q ' exec bash experiments/slurm/trial.sh "$@"
} >"$TRIAL.unfinished"
mv "$TRIAL.unfinished" "$TRIAL"
before=$(saved "$folder")
srun --kill-on-bad-exit=1 $command \
    --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.num_nodes="$SLURM_NNODES" "${@:2}"
status=$?
again $status "$folder" "$before" || rm "$TRIAL"
exit $status

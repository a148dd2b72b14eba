# Written by a trial of a sweep when it started: what goes on with it, when its task is queued again.
export @WANDB@
source @SLURM@/job.sh
mkdir -p @FOLDER@
before=$(saved @FOLDER@)

srun --kill-on-bad-exit=1 \
    @COMMAND@
status=$?

again $status @FOLDER@ "$before" || rm "$TRIAL"
exit $status

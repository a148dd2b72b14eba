# What every job needs; sourced by its batch file.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun does not take this from sbatch

# saved FOLDER: which state of a run lies there; another one whenever it is saved
saved() {
    stat --format=%i-%Y "$1/checkpoints/last.ckpt" 2>/dev/null
}

# again STATUS FOLDER BEFORE: whether a run that ended with STATUS is worth another start.
# 138: asked to stop before training began (128 + SIGUSR1).
# 75: it was asked to stop, and has saved its state; or a fault may pass. More than 128: a task died (out of memory,
# killed). Then only if it has saved anything since it started, so that nothing fails for ever.
again() {
    [ "$1" = 138 ] || { { [ "$1" = 75 ] || [ "$1" -gt 128 ]; } && [ "$(saved "$2")" != "$3" ]; }
}

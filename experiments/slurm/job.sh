# What every job needs; sourced by its batch file.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun does not take this from sbatch
STARTS=4 # in a row that may end without having saved anything

# saved FOLDER: which state of a run lies there; another one whenever it is saved
saved() {
    stat --format=%i-%Y "$1/checkpoints/last.ckpt" 2>/dev/null
}

# again STATUS FOLDER BEFORE: whether a run that ended with STATUS is worth another start; says so, and if not, why.
# 138: asked to stop before training began (128 + SIGUSR1).
# 75: it was asked to stop, and has saved its state; or a fault may pass. More than 128: a task died (out of memory,
# killed). If it has saved nothing since it started, it may be tried a few times, so that nothing fails for ever.
again() {
    local file="$2/starts-$SLURM_JOB_ID" starts=0
    [ -e "$file" ] && read -r starts <"$file"
    rm -f "$file"
    [ "$1" = 75 ] || [ "$1" -gt 128 ] || return
    if [ "$1" != 138 ] && [ "$(saved "$2")" = "$3" ]; then
        starts=$((starts + 1))
        if [ "$starts" -ge "$STARTS" ]; then
            echo "exit status $1, and $starts starts in a row have saved nothing: not queued again"
            return 1
        fi
        echo "$starts" >"$file" || return # uncounted, it might fail for ever
        echo "nothing saved in this start, number $starts of at most $STARTS"
    fi
    if [ -e "$2/checkpoints/last.ckpt" ]; then
        echo "exit status $1: queued again, to continue from $2/checkpoints/last.ckpt"
    else
        echo "exit status $1: queued again, to start anew"
    fi
}

#!/usr/bin/env bash
# One run over all GPUs of a Slurm job; sent away, it queues itself again and goes on where it was.
#
#   sbatch --nodes=4 launch/slurm.sh --config configs/pretrain_masked.py --workdir /shared/runs/mae
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --time=24:00:00 launch/slurm.sh --config ...
#   sbatch --nodes=2 launch/slurm.sh evaluate /shared/runs/ad
#   DRY_RUN=1 bash launch/slurm.sh --config ... --workdir ...      # prints what would run
#
# What comes before the script are sbatch's options, which override those below; what comes after it is jaxneuro's.
# Without a verb it is `train`. JAXNEURO is the command, `jaxneuro` by default: JAXNEURO=$PWD/.venv/bin/jaxneuro.
# On nodes without GPUs: --gpus-per-node=0.

# A task for each GPU: from an srun step, jax takes one GPU a process, the one numbered SLURM_LOCALID.
#SBATCH --job-name=jaxneuro
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is up, SIGTERM to all tasks. Not B:, which would tell this shell instead of them.
#SBATCH --signal=TERM@120
set -euo pipefail

if (($# == 0)); then
  echo "error: found no arguments; expected those of jaxneuro train, such as --config FILE --workdir FOLDER" >&2
  exit 2
fi
if [[ $1 == -* ]]; then
  set -- train "$@"
fi
if [[ $1 == train && " $*" != *" --workdir"* ]]; then
  echo "error: found no --workdir; expected a folder that all nodes see; add --workdir /shared/runs/NAME" >&2
  exit 2
fi
gpus=${SLURM_GPUS_ON_NODE:-0} tasks=${SLURM_NTASKS_PER_NODE:-$gpus}
if ((gpus != 0 && gpus != tasks)); then
  echo "error: found $tasks tasks for $gpus GPUs on a node; expected as many; try sbatch --ntasks-per-node=$gpus" >&2
  exit 2
fi

# gRPC would ask an outside proxy for the other nodes.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
# NCCL does not say by itself why nodes cannot reach each other.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

# --gpu-bind=none: a task that is shown one GPU only would look there for number SLURM_LOCALID.
# --kill-on-bad-exit=0 --wait=60: whoever exits first, with 75 too, gives the others a minute. kill-on-bad-exit=1 kills
# them at once, while they save.
# --cpus-per-task: srun does not take it over from sbatch (since Slurm 22.05).
command=(srun --label --gpu-bind=none --kill-on-bad-exit=0 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
  "${JAXNEURO:-jaxneuro}" "$1" --distributed "${@:2}")

if [[ ${DRY_RUN:-0} == 1 ]]; then
  printf 'NCCL_DEBUG=%q' "$NCCL_DEBUG"
  printf ' %q' "${command[@]}"
  printf '\nif it exits with 75: scontrol requeue %s\n' "${SLURM_JOB_ID:-JOB}"
  exit
fi

# In the background, so that a signal to this shell is answered at once: scancel, and the end of the time, send one.
ended=0 status=0
"${command[@]}" &
srun=$!
trap 'trap "" TERM; ended=1; kill -TERM "$srun" || true' TERM
wait "$srun" || status=$?
if ((ended)); then # that wait was cut short
  status=0
  wait "$srun" || status=$?
fi
# A notice goes to the tasks alone, who then exit with 75 (EX_TEMPFAIL): again, then. If this shell was told, too, Slurm
# is ending the job, and queues it again itself where that is wanted.
if ((status == 75 && !ended)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

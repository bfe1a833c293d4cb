#!/usr/bin/env bash
# One run over all GPUs of a Slurm job; sent away, it queues itself again and goes on where it was.
#
#   sbatch --nodes=4 launch/slurm.sh --config configs/pretrain_masked.py --workdir /shared/runs/mae
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --time=24:00:00 launch/slurm.sh --config ... --workdir ...
#   sbatch launch/slurm.sh evaluate /shared/runs/ad
#   DRY_RUN=1 bash launch/slurm.sh --config ... --workdir ...      # prints what would run, and runs nothing
#
# sbatch's options come before the script and override those below; jaxneuro's come after it, without a verb those of
# `train`. JAXNEURO is the command, `jaxneuro` by default: JAXNEURO=$PWD/.venv/bin/jaxneuro sbatch ...
# On nodes without GPUs: --gpus-per-node=0.

# A task for each GPU: in an srun step jax takes one GPU a process, the one numbered SLURM_LOCALID.
#SBATCH --job-name=jaxneuro
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is up, SIGTERM to the tasks. (B:TERM would tell this shell instead of them.)
#SBATCH --signal=TERM@120
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^[^#]*$/s/^# \{0,1\}//p' "$0"
  exit
fi

if (($# == 0)); then
  echo "error: found no arguments; expected those of jaxneuro train; try --config FILE --workdir FOLDER" >&2
  exit 2
fi
if [[ $1 == -* ]]; then
  set -- train "$@"
fi
if [[ $1 == train && " $*" != *" --workdir"* ]]; then
  echo "error: found no --workdir; expected a folder that all nodes see; try --workdir /shared/runs/NAME" >&2
  exit 2
fi
gpus=${SLURM_GPUS_ON_NODE:-0} tasks=${SLURM_NTASKS_PER_NODE:-1}
if ((gpus > 0 && gpus != tasks)); then
  echo "error: found $tasks tasks for $gpus GPUs on a node; expected one each; try --ntasks-per-node=$gpus" >&2
  exit 2
fi

# Proxies: gRPC would ask them for the other nodes.
# NCCL_DEBUG: NCCL does not say by itself why nodes cannot reach each other.
# --gpu-bind=none: a task that is shown a single GPU would look there for the one numbered SLURM_LOCALID.
# --wait=60: when a process dies, the others get SIGTERM after a minute, and SIGKILL KillWait (30 s by default) later.
# --kill-on-bad-exit=0: 1 would send it as soon as one has exited with 75, and cut the others' saving or exit short.
# --cpus-per-task: since Slurm 22.05, srun does not take it over from sbatch.
command=(
  env -u grpc_proxy -u http_proxy -u https_proxy "NCCL_DEBUG=${NCCL_DEBUG:-WARN}"
  srun --label --gpu-bind=none --kill-on-bad-exit=0 --wait=60 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-8}"
  "${JAXNEURO:-jaxneuro}" "$1" --distributed "${@:2}"
)
if [[ ${DRY_RUN:-0} == 1 ]]; then
  printf '%q ' "${command[@]}"
  printf '\nwhen that exits with 75: scontrol requeue %s\n' "${SLURM_JOB_ID:-JOB}"
  exit
fi

# In the background, so that a signal to this shell is answered at once.
ended=0 status=0
"${command[@]}" &
srun=$!
trap '((ended++)) || kill -TERM "$srun" || true' TERM
wait "$srun" || status=$?
if ((ended)); then # a signal, and Slurm sends several, cuts a wait short
  while kill -0 "$srun" 2>/dev/null; do
    wait "$srun" || true
  done
  status=0
  wait "$srun" || status=$?
fi
# The notice (of preemption with GraceTime, or of the end of the time) goes to the tasks alone, and they exit with 75,
# EX_TEMPFAIL. Where this shell is told, too, the job is cancelled, or Slurm queues it again itself.
if ((status == 75 && !ended)); then
  trap '' TERM # of the end of this job
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

#!/usr/bin/env bash
# One run over all hosts of a TPU VM slice that exists.
#
#   TPU=mae ZONE=us-central2-b launch/tpu.sh --config configs/pretrain_masked.py --workdir /mnt/shared/runs/mae
#   TPU=mae ZONE=us-central2-b launch/tpu.sh evaluate /mnt/shared/runs/ad
#   DRY_RUN=1 TPU=mae ZONE=us-central2-b launch/tpu.sh ...         # prints what would run, and runs nothing
#
# Arguments are jaxneuro's, without a verb those of `train`. FOLDER is where they run on every host, from the home
# folder there: a clone of this repository, `jaxneuro` by default. JAXNEURO is the command there: .venv/bin/jaxneuro.
# A slice, and what it needs on every host (Python 3.11 or newer):
#
#   gcloud compute tpus queued-resources create mae --node-id=mae --zone=us-central2-b --spot \
#     --accelerator-type=v4-32 --runtime-version=tpu-ubuntu2204-base
#   gcloud compute tpus tpu-vm ssh mae --zone=us-central2-b --worker=all \
#     --command="git clone URL jaxneuro && cd jaxneuro && python3.11 -m venv .venv && .venv/bin/pip install '.[tpu]'"
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^[^#]*$/s/^# \{0,1\}//p' "$0"
  exit
fi

for key in TPU ZONE; do
  if [[ -z ${!key:-} ]]; then
    echo "error: found no $key; expected the slice's; try TPU=NAME ZONE=us-central2-b launch/tpu.sh ..." >&2
    exit 2
  fi
done
if (($# == 0)); then
  echo "error: found no arguments; expected those of jaxneuro train; try --config FILE --workdir FOLDER" >&2
  exit 2
fi
if [[ $1 == -* ]]; then
  set -- train "$@"
fi
if [[ $1 == train && " $*" != *" --workdir"* ]]; then
  echo "error: found no --workdir; expected a folder that all hosts see; try --workdir /mnt/shared/runs/NAME" >&2
  exit 2
fi

FOLDER=${FOLDER:-jaxneuro}
# Of a tilde, the shell here made the home folder here; quoted, it would stay a tilde there.
FOLDER=${FOLDER#\~/} FOLDER=${FOLDER#"${HOME:-~}"/}

# For the login shells at the other end, whichever they are: printf %q would be for bash alone.
quote() {
  local word quoted="'\\''"
  for word; do
    printf " '%s'" "${word//\'/$quoted}"
  done
}
remote="cd$(quote "$FOLDER") && exec$(quote "${JAXNEURO:-.venv/bin/jaxneuro}" "$1" --distributed "${@:2}")"
# Nothing else is needed: jax asks the metadata server of Cloud TPU who is who.
command=(gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$remote")

if [[ ${DRY_RUN:-0} == 1 ]]; then
  printf '%q ' "${command[@]}"
  printf '\non every host: %s\n' "$remote"
  exit
fi
exec "${command[@]}"

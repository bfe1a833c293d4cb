#!/usr/bin/env bash
# One run over the pods of a Kubernetes JobSet: fills in jobset.yaml, and hands it to kubectl.
#
#   export NAME=mae IMAGE=registry.example/jaxneuro:0.1 CLAIM=shared PODS=4 GPUS=8
#   launch/jobset.sh --config configs/pretrain_masked.py --workdir /shared/runs/mae
#   launch/jobset.sh evaluate /shared/runs/ad
#   DRY_RUN=1 launch/jobset.sh ...                                 # prints the manifest, and runs nothing
#   DRY_RUN=1 launch/jobset.sh ... | kubectl create --dry-run=server -f -          # and the cluster checks it
#
# Arguments are jaxneuro's, without a verb those of `train`. CLAIM is a volume that all pods can write, seen as /shared.
# PODS is 1 by default, GPUS (of each pod) 8.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '2,/^[^#]*$/s/^# \{0,1\}//p' "$0"
  exit
fi

PODS=${PODS:-1} GPUS=${GPUS:-8}
for key in NAME IMAGE CLAIM; do
  if [[ -z ${!key:-} ]]; then
    echo "error: found no $key; expected NAME, IMAGE and CLAIM; try NAME=mae IMAGE=... CLAIM=... $0 ..." >&2
    exit 2
  fi
done
# The address of the first pod, NAME-workers-0-0.NAME, is a label, of 63 characters at most.
if [[ ! $NAME =~ ^[a-z]([-a-z0-9]{0,23}[a-z0-9])?$ ]]; then
  echo "error: NAME: found '$NAME'; expected at most 25 of a-z, 0-9 and -, a letter first; try NAME=mae" >&2
  exit 2
fi
for key in PODS GPUS; do
  if [[ ! ${!key} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: $key: found '${!key}'; expected a number of at least 1; try $key=4" >&2
    exit 2
  fi
done
for key in IMAGE CLAIM; do
  if [[ ${!key} == *[\"\\[:space:]]* ]]; then
    echo "error: $key: found '${!key}'; expected no quote, backslash or space; try $key=${!key//[\"\\[:space:]]/}" >&2
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
  echo "error: found no --workdir; expected a folder that all pods see; try --workdir /shared/runs/NAME" >&2
  exit 2
fi

# What is written elsewhere goes with the pod.
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --workdir) next=$((i + 1)) folder=${!next:-} ;;
    --workdir=*) folder=${!i#*=} ;;
    *) continue ;;
  esac
  if [[ $folder != /shared/* ]]; then
    echo "error: --workdir: found '$folder'; expected a folder of CLAIM; try --workdir /shared/runs/NAME" >&2
    exit 2
  fi
done

# As JSON, which is YAML. Kubernetes takes $$ for a dollar, and $(NAME) for a variable.
ARGS=
for word in "$1" --distributed "${@:2}"; do
  word=${word//\\/\\\\}
  word=${word//\"/\\\"}
  word=${word//\$/\$\$}
  word=${word//$'\n'/\\n}
  word=${word//$'\t'/\\t}
  ARGS+=${ARGS:+, }\"$word\"
done
ARGS=[$ARGS]

manifest=$(<"$(dirname "${BASH_SOURCE[0]}")/jobset.yaml")
for key in NAME IMAGE CLAIM PODS GPUS ARGS; do # ARGS last: nothing is filled in in them
  manifest=${manifest//"\${$key}"/"${!key}"}
done
if [[ ${DRY_RUN:-0} == 1 ]]; then
  printf '%s\n' "$manifest"
  exit
fi
kubectl create -f - <<<"$manifest"

#!/usr/bin/env bash
# A study on Slurm, each trial a job of an array, on a login node:
#
#     bash examples/slurm_study.sh paper-cifar /shared/cifar --gpus=1 --cpus-per-task=8 --time=12:00:00
#
# First the study, one that comes along or a file; then a folder that all nodes see; then options of sbatch. What can be
# planned depends on what is finished (tuning comes before final runs), so one array follows the other. Stop it and start it
# again at any time: finished trials are kept, and a long one that was cut off goes on from its checkpoint.
# DATA="NAME=PATH ..." where the study's data is your own, DEVICE=cpu without GPUs, AT_ONCE=16 jobs.
set -euo pipefail

study=$1 out=$2
shift 2
options=(--out "$out" --device "${DEVICE:-cuda}")
data=()
for source in ${DATA:-}; do data+=(--data "$source"); done

ids=$out/slurm/open.txt
mkdir -p "$out/slurm"
rm -f "$ids"
while true; do
  adamomentum study plan "$study" "${options[@]}" "${data[@]}" --ids > "$ids.new"
  if [ ! -s "$ids.new" ]; then break; fi
  # What failed is open again: once more would not help.
  if cmp --silent "$ids.new" "$ids"; then
    echo "$(wc -l < "$ids") trials fail; their jobs' output is in $out/slurm" >&2
    exit 1
  fi
  mv "$ids.new" "$ids"
  # Slurm's arrays have 1,000 jobs at most, unless MaxArraySize says otherwise.
  count=$(head --lines 1000 "$ids" | wc -l)
  # Each job runs the trial on its line.
  job="adamomentum study trial '$study' \$(sed --quiet \"\${SLURM_ARRAY_TASK_ID}p\" '$ids' | cut --delimiter ' ' --fields 1)"
  job+=$(printf " '%s'" "${options[@]}" "${data[@]}")
  # A job that fails stops no other one.
  sbatch --wait --array="1-$count%${AT_ONCE:-16}" --output="$out/slurm/%A_%a.txt" "$@" --wrap "$job" || true
done
adamomentum study report "$study" "${options[@]}"

#!/usr/bin/env bash
# One language-conditioned policy for SimplerEnv's four Bridge tasks: demonstrations, training from scratch, evaluation in
# the benchmark's own initial states, ablations. On one GPU; docs/simulator_results.md has what came out and how long it
# took. Written after the runs, which were commands one by one; the ablations were run on the policy in bfloat16.
#
#   runs/simpler.sh FOLDER [WORKERS]      # PIZERO_ASSETS names the folder of assets
set -euo pipefail
out=$1
workers=${2:-0}
collect="pizero collect simpler --noise 0.5 --disturbances 0.2 --workers $workers"
train="pizero train simpler"
evaluate="pizero eval --workers $workers --no-compile --task simpler"

$collect --root "$out/first" --episodes 150 --seed 0
$collect --root "$out/second" --episodes 250 --seed 7
$collect --root "$out/third" --episodes 250 --seed 8

# a first run on part of the demonstrations, then the rest from its weights
some=(--data.mix "$out/first=600" "$out/second=1000")
$train "${some[@]}" --output "$out/early" --steps 4341
$train "${some[@]}" "$out/third=1000" --init "$out/early/last" --output "$out/train" --steps 11198

# for the ablations: as the first run
$train "${some[@]}" --output "$out/uniform" --name uniform --time-distribution uniform --steps 5302
$train "${some[@]}" --output "$out/no-state" --name no-state --model.no-state-token --steps 5040

policy=$out/train/last
$evaluate "$policy" --episodes 75 --execute-steps 2 --output "$out/eval" --videos 2 --failures 2
for steps in 1 4 8; do
    $evaluate "$policy" --episodes 24 --execute-steps "$steps" --output "$out/eval-execute-$steps" --videos 0 --against "$out/eval"
done
for steps in 4 1; do
    $evaluate "$policy" --episodes 24 --execute-steps 2 --num-steps "$steps" --output "$out/eval-euler-$steps" --videos 0 --against "$out/eval"
done
$evaluate "$policy" --episodes 24 --execute-steps 2 --instruction simpler/stack-cube --output "$out/eval-wrong" --videos 0 --against "$out/eval"
$evaluate "$out/early/last" --episodes 24 --execute-steps 2 --output "$out/eval-early" --videos 0
for other in uniform no-state; do
    $evaluate "$out/$other/last" --episodes 24 --execute-steps 2 --output "$out/eval-$other" --videos 0 --against "$out/eval-early"
done

# on demonstrations that were trained on, and on others
pizero collect simpler --noise 0.5 --disturbances 0.2 --workers "$workers" --root "$out/held" --episodes 15 --seed 99
python bench/chunk_error.py "$policy" "$out/first" "$out/held" --episodes 12

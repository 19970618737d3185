#!/usr/bin/env bash
# One language-conditioned policy for SimplerEnv's four Bridge tasks: demonstrations, training from scratch, evaluation in
# the benchmark's own initial states, ablations. On one GPU; docs/simulator_results.md has what came out and how long it took.
#
#   runs/simpler.sh FOLDER [WORKERS]      # PIZERO_ASSETS names the folder of assets
set -euo pipefail
out=$1
workers=${2:-0}
train="pizero train simpler --data.root $out/dataset"
evaluate="pizero eval --workers $workers --no-compile --task simpler --episodes 96"

pizero collect simpler --root "$out/dataset" --episodes 500 --noise 0.5 --workers "$workers"
$train --output "$out/train"
$train --output "$out/train-uniform" --name uniform --time-distribution uniform
$train --output "$out/train-no-state" --name no-state --model.no-state-token

policy=$out/train/last
$evaluate "$policy" --execute-steps 4 --output "$out/eval" --videos 2 --failures 2
$evaluate "$policy" --execute-steps 4 --output "$out/eval-other-instruction" --instruction simpler/stack-cube --videos 1
for steps in 1 2 8; do
    $evaluate "$policy" --execute-steps "$steps" --output "$out/eval-execute-$steps" --videos 0 --against "$out/eval"
done
for steps in 4 1; do
    $evaluate "$policy" --execute-steps 4 --num-steps "$steps" --output "$out/eval-euler-$steps" --videos 0 --against "$out/eval"
done
for other in uniform no-state; do
    $evaluate "$out/train-$other/last" --execute-steps 4 --output "$out/eval-$other" --videos 0 --against "$out/eval"
done

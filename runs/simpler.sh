#!/usr/bin/env bash
# One language-conditioned policy for SimplerEnv's four Bridge tasks: demonstrations, training from scratch, evaluation in
# the benchmark's own initial states, ablations. On one GPU; docs/simulator_results.md has what came out and how long it
# took. Written after the runs, which were commands one by one.
#
#   runs/simpler.sh FOLDER [WORKERS]      # PIZERO_ASSETS names the folder of assets
set -euo pipefail
out=$1
workers=${2:-0}
collect="pizero collect simpler --noise 0.5 --disturbances 0.2 --workers $workers"
train="pizero train simpler"
evaluate="pizero eval --workers $workers --no-compile --task simpler"

mix=()
for seed_episodes in 0=150 7=250 8=250 31=100 32=100 33=100 34=100; do
    seed=${seed_episodes%=*} episodes=${seed_episodes#*=}
    $collect --root "$out/seed-$seed" --episodes "$episodes" --seed "$seed"
    mix+=("$out/seed-$seed=$((4 * episodes))")
done
$train --data.mix "${mix[@]}" --output "$out/train" --steps 13953

policy=$out/train/last
for steps in 1 2; do # which is better, in drawn states
    $evaluate "$policy" --states drawn --seed 5 --episodes 8 --execute-steps "$steps" --videos 0 --output "$out/drawn-$steps"
done
$evaluate "$policy" --episodes 75 --execute-steps 2 --output "$out/eval" --videos 1 --failures 3
for steps in 1 4 8; do
    $evaluate "$policy" --episodes 24 --execute-steps "$steps" --output "$out/execute-$steps" --videos 0 --against "$out/eval"
done
for steps in 4 1; do
    $evaluate "$policy" --episodes 24 --execute-steps 2 --num-steps "$steps" --output "$out/euler-$steps" --videos 0 --against "$out/eval"
done
$evaluate "$policy" --episodes 24 --execute-steps 2 --instruction simpler/stack-cube --output "$out/wrong" --videos 1 --against "$out/eval"

# distribution of flow times, and the state: an earlier recipe, on less than half of the demonstrations
earlier=(--model.vision.stem patches --data.augment.shift-pixels 0 --data.mix "$out/seed-0=600" "$out/seed-7=1000")
$train "${earlier[@]}" --output "$out/earlier" --steps 4341
$train "${earlier[@]}" --output "$out/uniform" --name uniform --time-distribution uniform --steps 5302
$train "${earlier[@]}" --output "$out/no-state" --name no-state --model.no-state-token --steps 5040
$evaluate "$out/earlier/last" --episodes 24 --execute-steps 2 --output "$out/eval-earlier" --videos 0
for other in uniform no-state; do
    $evaluate "$out/$other/last" --episodes 24 --execute-steps 2 --output "$out/eval-$other" --videos 0 --against "$out/eval-earlier"
done

# on demonstrations that were trained on, and on others
$collect --root "$out/held" --episodes 15 --seed 99
python bench/chunk_error.py "$policy" "$out/seed-0" "$out/held" --episodes 12

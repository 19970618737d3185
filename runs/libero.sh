#!/usr/bin/env bash
# One language-conditioned policy for each of two LIBERO suites: demonstrations, training from scratch, evaluation in the
# benchmark's own initial states, controls. On one GPU; docs/simulator_results.md has what came out and how long it took.
# Written after the runs, which were commands one by one, those of the two suites side by side.
#
#   runs/libero.sh FOLDER [WORKERS]      # PIZERO_ASSETS names the folder of assets
set -euo pipefail
out=$1
workers=${2:-0}
for suite in spatial=201=13474 object=202=14523; do
    IFS== read -r suite seed steps <<<"$suite"
    here=$out/$suite
    mix=()
    for seed_episodes in 101=8 102=8 "$seed=80"; do
        IFS== read -r seed episodes <<<"$seed_episodes"
        pizero collect "libero-$suite" --root "$here/seed-$seed" --episodes "$episodes" --seed "$seed" \
            --noise 0.5 --disturbances 0.2 --workers "$workers"
        mix+=("$here/seed-$seed=$((10 * episodes))")
    done
    pizero train libero --data.mix "${mix[@]}" --output "$here/train" --name "libero-$suite" --steps "$steps"

    evaluate="pizero eval $here/train/last --workers $workers --no-compile --task libero-$suite"
    for execute in 2 4; do # which is better, in drawn states
        $evaluate --states drawn --seed 5 --episodes 5 --execute-steps "$execute" --videos 0 --output "$here/drawn-$execute"
    done
    $evaluate --episodes 20 --execute-steps 4 --videos 1 --failures 2 --output "$here/eval"
    $evaluate --episodes 10 --execute-steps 4 --videos 1 --instruction "libero-$suite/3" --output "$here/wrong" --against "$here/eval"
    $evaluate --episodes 10 --execute-steps 4 --videos 0 --num-steps 1 --output "$here/euler-1" --against "$here/eval"
    for execute in 2 8 16; do
        $evaluate --episodes 10 --execute-steps "$execute" --videos 0 --output "$here/execute-$execute" --against "$here/eval"
    done
done
python bench/other_bowl.py "$out/spatial/train/last" --episodes 10 --execute-steps 4

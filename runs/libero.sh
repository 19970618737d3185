#!/usr/bin/env bash
# One language-conditioned policy for each of two LIBERO suites: demonstrations, training from scratch, evaluation in the
# benchmark's own initial states, controls; a pilot on fewer. docs/simulator_results.md has what came out and how long it
# took. Written after the runs, which were commands one by one; the trainings were ended by the clock after these steps.
#
#   runs/libero.sh FOLDER [WORKERS]      # on a GPU; PIZERO_ASSETS names the folder of assets
set -euo pipefail
out=$1
workers=${2:-0}
evaluate="pizero eval --no-compile --workers $workers"

collect() { # SUITE SEED EPISODES
    pizero collect "libero-$1" --root "$out/$1-$2" --seed "$2" --episodes "$3" --noise 0.5 --disturbances 0.2 --workers "$workers"
}
train() { # SUITE NAME STEPS SEED...
    local suite=$1 name=$2 steps=$3 mix=()
    shift 3
    for seed in "$@"; do
        mix+=("$out/$suite-$seed=$((seed < 200 ? 80 : 800))")
    done
    pizero train libero --data.mix "${mix[@]}" --output "$out/$name" --name "$name" --steps "$steps" --save-every 2500
}

for suite in spatial object; do
    collect $suite 101 8
    collect $suite 102 8
done
collect spatial 201 80
collect object 202 80

train object pilot 1708 101 102
for execute in 2 4 8 16; do
    $evaluate "$out/pilot/last" --task libero-object --states drawn --seed 5 --episodes 3 --execute-steps $execute --videos 0 \
        --output "$out/pilot-$execute"
done

train spatial spatial 13474 101 102 201
train object object 14523 101 102 202
for suite in spatial object; do
    policy=$out/$suite/last
    for execute in 2 4; do # done at step 2,500, while training went on
        $evaluate "$policy" --task libero-$suite --states drawn --seed 5 --episodes 5 --execute-steps $execute --videos 0 \
            --output "$out/$suite-drawn-$execute"
    done
    $evaluate "$policy" --task libero-$suite --episodes 20 --execute-steps 4 --videos 1 --failures 2 --output "$out/$suite-eval"
done
$evaluate "$out/spatial/last" --task libero-spatial --episodes 6 --execute-steps 4 --videos 1 --instruction libero-spatial/3 \
    --output "$out/spatial-wrong" --against "$out/spatial-eval"
$evaluate "$out/object/last" --task libero-object --episodes 10 --execute-steps 4 --videos 1 --instruction libero-object/3 \
    --output "$out/object-wrong" --against "$out/object-eval"
$evaluate "$out/object/last" --task libero-object --episodes 10 --execute-steps 4 --videos 0 --num-steps 1 \
    --output "$out/object-euler-1" --against "$out/object-eval"

# on 2 cores, in float32
for suite in spatial object; do
    $evaluate assets/libero-$suite --device cpu --task libero-$suite --episodes 20 --execute-steps 4 --videos 0 --output "$out/$suite-cpu"
    python bench/told.py assets/libero-$suite libero-$suite --episodes 10 --device cpu
done
python bench/told.py assets/libero-object libero-object --episodes 5 --other 4 --device cpu

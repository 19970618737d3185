#!/usr/bin/env bash
# One language-conditioned policy for each of two LIBERO suites: demonstrations, training from scratch, evaluation in the
# benchmark's own initial states. On one GPU; docs/simulator_results.md has what came out and how long it took.
#
#   runs/libero.sh FOLDER [WORKERS]      # PIZERO_ASSETS names the folder of assets
set -euo pipefail
out=$1
workers=${2:-0}
for suite in libero-spatial libero-object; do
    pizero collect "$suite" --root "$out/$suite/dataset" --episodes 60 --noise 0.5 --workers "$workers"
    pizero train libero --data.root "$out/$suite/dataset" --output "$out/$suite/train" --name "$suite"
    pizero eval "$out/$suite/train/last" --workers "$workers" --no-compile --task "$suite" --episodes 20 \
        --execute-steps 8 --output "$out/$suite/eval" --videos 1 --failures 1
done

#!/usr/bin/env bash
# Optimisers, precisions and adapters beside each other on the demo's tasks, same seed: runs/curves.sh DEMONSTRATIONS OUTPUT
# DEMONSTRATIONS: those of `pizero demo` (runs/demo/dataset), of which docs/log.md used the first 40 episodes of each task.
set -euo pipefail
data=$1 out=$2
common=(--data.root "$data" --data.held-out 0.1 --max-seconds None --steps 1000 --optim.warmup-steps 100 --batch-size 64
  --validate-every 500)
run() { pizero train demo "${common[@]}" --output "$out/$1" --name "$1" "${@:2}"; }

run fp32 --precision fp32
run fp32-8bit --precision fp32 --optim.kind adamw8bit
run bf16 --precision bf16
run bf16-pure-8bit --precision bf16-pure --optim.kind adamw8bit
run more-full --precision fp32 --init "$out/fp32/step-001000"
run more-lora --precision fp32 --init "$out/fp32/step-001000" --tune lora --lora.vision

for name in fp32 fp32-8bit bf16 bf16-pure-8bit more-full more-lora; do
  pizero eval "$out/$name/last" --episodes 15 --task metaworld/window-open metaworld/window-close \
    metaworld/button-press-topdown metaworld/handle-press-side --output "$out/$name/eval-last"
done
python "$(dirname "$0")/../bench/compare_runs.py" "$out"/{fp32,fp32-8bit,bf16,bf16-pure-8bit,more-full,more-lora} --output "$out/compare.html"

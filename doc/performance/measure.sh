#!/bin/sh
# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# Measure the figures of doc/performance.md and of the README, and fill their tables, in about half an hour on two
# cores without other load. `make smoke-figures` writes smoke.json.
#     doc/performance/measure.sh [SECONDS [FOLDER]]
# SECONDS: measured time of a round (8). FOLDER: write the figures there and leave the tables unchanged.
set -u
cd "$(dirname "$0")/../.."
seconds=${1:-8}
folder=${2:-doc/performance}
PATH="$PWD/.venv/bin:$PATH"
model=models/rover.zip
failed=
step=0
steps=16
started=$(date +%s)

# figures NAME COMMAND OPTIONS…: write NAME.json to the folder.
figures() {
    name=$1
    shift
    step=$((step + 1))
    echo "== $step of $steps, $(($(date +%s) - started)) s: policy_bench $*"
    policy_bench "$@" --json "$folder/$name.json" || failed="$failed $name"
}

# bench NAME COMMAND OPTIONS…: write NAME.json and NAME.png to the folder.
bench() {
    figures "$@" --plot "$folder/$1.png"
}

bench scale scale --robots 1,4,16,64 --baseline --model $model --seconds "$seconds"
bench fleet_64 fleet --robots 64 --image 64 --baseline --model $model --seconds "$seconds" --rounds 2
bench fleet_224 fleet --robots 16 --image 224 --baseline --model $model --seconds "$seconds" --rounds 2
bench fleet_480 fleet --robots 16 --image 640x480 --model $model --seconds "$seconds" --rounds 2
bench fleet_480_default fleet --robots 16 --image 640x480 --model $model --seconds "$seconds" --rounds 2 \
    --fastdds-profile none
bench lateness fleet --robots 16 --image 64 --rate 50 --model $model --seconds "$seconds" --rounds 2 \
    --versus realtime.priority:=50
for robots in 1 16; do
    bench pipeline_$robots pipeline --robots $robots --image 64 --model $model --seconds "$((2 * seconds))"
done
bench pipeline pipeline --robots 64 --image 64 --model $model --seconds "$((4 * seconds))" --predict \
    --engines auto,direct,torchscript,onnxruntime
bench policy policy --model $model --device cpu --seconds "$((seconds / 2 + 1))"
figures images images
bench options fleet --robots 16 --image 224 --model $model --seconds "$seconds" --rounds 2 \
    --versus realtime.priority:=50 --versus "realtime.cpus:=[1]" --versus realtime.freeze_gc:=false \
    --versus realtime.switch_interval_s:=0.005 --versus no_malloc --versus policy.threads:=2 \
    --versus policy.engine:=direct --versus policy.engine:=torchscript
for robots in 1 64; do
    figures legged_$robots fleet --legged --robots $robots --rate 50 --sensor-rate 50 --baseline \
        --seconds "$seconds" --rounds 2
done
# Enough ticks for a p99.
figures chunks chunks --robots 16 --inference-ms 300 --horizon 50 --rate 50 --seconds "$((4 * seconds))"
figures capacity capacity --model $model --seconds "$((seconds / 2 + 1))"
if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    steps=$((steps + 2))
    for robots in 256 1024; do
        bench pipeline_gpu_$robots pipeline --robots $robots --image 84 --grey --no-touch --stack 4 --device cuda \
            --rate 50 --seconds "$((2 * seconds))" --predict
    done
else
    echo "== no GPU: its rows are not measured"
fi
[ "$folder" = doc/performance ] && python doc/performance/page.py
echo "== done after $(($(date +%s) - started)) s${failed:+; failed:$failed}"
[ -z "$failed" ]

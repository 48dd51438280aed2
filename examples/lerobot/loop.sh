#!/bin/sh
# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
# The whole loop with LeRobot: demonstrations over DDS, dataset, training, and the node with the trained policy.
#     examples/lerobot/loop.sh FOLDER PYTHON_WITH_LEROBOT [MINUTES]
# In the environment of policy_node (make demo). The other interpreter has Python 3.12 and "lerobot[dataset]>=0.6,<0.7",
# onnx, onnxscript and onnxruntime; LeRobot and policy_node want different versions of PyTorch.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
python=$2
minutes=${3:-20}
mkdir -p "$folder"

# The scripted driver drives 8 rovers, and the bag gets what goes over DDS.
policy_demo record "$folder/bag" --episodes 400 --robots 8
# The policy in the parameters describes the observations and actions; it drives nothing here.
sed 's/robots: .*/robots: [rover_0, rover_1, rover_2, rover_3, rover_4, rover_5, rover_6, rover_7]/' \
  "$here/../../config/rover.yaml" >"$folder/recorded.yaml"
policy_replay to-dataset "$folder/bag" --params "$folder/recorded.yaml" --time clock --format lerobot \
  --lerobot-python "$python" --lerobot-state touch --task "drive to the beacon" --output "$folder/dataset"
PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" "$python" "$here/train_act.py" "$folder/dataset" \
  --output "$folder/act" --minutes "$minutes"
policy_demo evaluate --params "$here/../../config/rover_act.yaml" --model "$folder/act.onnx" --episodes 100 \
  --json "$folder/act.json"

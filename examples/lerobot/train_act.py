# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train a small ACT of LeRobot on a LeRobotDataset, without a GPU, and export it as ONNX.

    python train_act.py datasets/rover --output runs/act --minutes 20

It needs LeRobot 0.6 (Python 3.12), and policy_node for the export. Model, loss, optimiser, normalisation and dataset
are those of LeRobot. The loop is here, as all frames fit into memory and LeRobot's loader would take more time than the
network. So is the backbone: LeRobot's smallest, ResNet-18, has 11 million weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from lerobot.configs.types import FeatureType
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.utils.feature_utils import dataset_to_policy_features
from torch import nn

BACKBONE = "resnet_small"
CHUNK_STEPS = 20
LOG_STEPS = 100


def resnet_small(weights: Any = None, norm_layer: Any = nn.BatchNorm2d, **_: Any) -> nn.Module:
    """Make a backbone with the names of a ResNet: images `[rows, 3, 64, 64]` to features `[rows, 128, 4, 4]`."""
    network = nn.Module()
    for name, layer in (
        ("layer2", nn.Conv2d(3, 32, 8, 4)),
        ("layer3", nn.Conv2d(32, 64, 4, 2)),
        ("layer4", nn.Conv2d(64, 128, 3)),
    ):
        setattr(network, name, nn.Sequential(layer, nn.ReLU(inplace=True)))
    network.fc = nn.Linear(128, 1)
    return network


torchvision.models.resnet_small = resnet_small


class Frames:
    """All frames of a dataset in memory."""

    def __init__(self, dataset: LeRobotDataset) -> None:
        rows = dataset.hf_dataset.with_format(None)
        self.images = {
            key: torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in rows[key]])
            for key in dataset.meta.camera_keys
        }
        self.state = torch.tensor(rows["observation.state"][:])
        self.action = torch.tensor(rows["action"][:])
        episodes = np.array(rows["episode_index"][:])
        # The last frame of each frame's episode.
        self._last = torch.from_numpy(np.searchsorted(episodes, episodes, side="right") - 1)

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return frames with the actions of their next `CHUNK_STEPS` steps, as LeRobot's loader has them."""
        steps = indices[:, None] + torch.arange(CHUNK_STEPS)
        last = self._last[indices][:, None]
        images = {key: values[indices].float() / 255 for key, values in self.images.items()}
        actions = {"action": self.action[torch.minimum(steps, last)], "action_is_pad": steps > last}
        return {**images, "observation.state": self.state[indices], **actions}


def main() -> None:
    """Train until the time is over, and save the policy as LeRobot does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder of the policy; its ONNX file goes beside it")
    parser.add_argument("--init", type=Path, help="folder of a policy to go on from")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dataset = LeRobotDataset(f"local/{options.dataset.name}", root=options.dataset)
    frames = Frames(dataset)
    features = dataset_to_policy_features(dataset.meta.features)
    config = make_policy_config(
        "act",
        input_features={name: feature for name, feature in features.items() if feature.type is not FeatureType.ACTION},
        output_features={name: feature for name, feature in features.items() if feature.type is FeatureType.ACTION},
        device="cpu",
        chunk_size=CHUNK_STEPS,
        n_action_steps=4,
        vision_backbone=BACKBONE,
        pretrained_backbone_weights=None,
        dim_model=128,
        n_heads=4,
        dim_feedforward=256,
        n_encoder_layers=2,
        # The demonstrations have one action for an observation, which needs no latent variable.
        use_vae=False,
        dropout=0.0,
        optimizer_lr=5e-4,
        optimizer_lr_backbone=5e-4,
    )
    kind = get_policy_class("act")
    policy = kind.from_pretrained(options.init, config=config) if options.init else kind(config)
    before, after = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    optimizer = config.get_optimizer_preset().build(policy.get_optim_params())
    rate = [group["lr"] for group in optimizer.param_groups]
    print(f"{len(frames.action)} frames, {sum(part.numel() for part in policy.parameters())} weights", flush=True)
    policy.train()
    started_s, step, losses = time.monotonic(), 0, []
    while (share := (time.monotonic() - started_s) / (60 * options.minutes)) < 1:
        for group, full in zip(optimizer.param_groups, rate, strict=True):
            group["lr"] = full * min(1.0, (step + 1) / 200) * (0.5 * (1 + np.cos(np.pi * share)) + 0.01)
        loss, _ = policy.forward(before(frames.batch(torch.randint(len(frames.action), (options.batch,)))))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % LOG_STEPS == 0:
            elapsed_s = time.monotonic() - started_s
            print(f"step {step}, {elapsed_s:.0f} s, loss {np.mean(losses[-LOG_STEPS:]):.4f}", flush=True)
            if step % (10 * LOG_STEPS) == 0:
                save(policy, before, after, options.output)
    save(policy, before, after, options.output)
    export(options.output)


def save(policy: Any, before: Any, after: Any, folder: Path) -> None:
    """Write the policy as LeRobot does."""
    for part in (policy, before, after):
        part.save_pretrained(folder)


def export(folder: Path) -> None:
    """Write the ONNX file; here, as LeRobot knows the backbone in this process only."""
    from policy_node.cli.export import export_policy

    print(export_policy(folder, "onnx", folder.with_suffix(".onnx")))


if __name__ == "__main__":
    main()

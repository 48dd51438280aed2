# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of LeRobot with random weights, and the actions that LeRobot itself takes with them.

`python test/lerobot_cases.py [NAME ...]` writes `test/data/lerobot_*`, and needs LeRobot: exported files and episodes,
which the tests compare without LeRobot. LeRobot drives each robot alone, with its queues or its temporal ensemble.
SmolVLA, which cannot be exported, is only compared.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from policy_node.config.tasks import MAX_TASK_BYTES, decode_tasks, encode_task

DATA = Path(__file__).parent / "data"
TICKS = 18
# Ticks before which a robot is reset, by robot.
RESETS = ((0,), (0, 7), (0, 5, 13))
IMAGE, STATE, ENVIRONMENT = "observation.images.front", "observation.state", "observation.environment_state"
SHAPES = {IMAGE: (3, 16, 20), "observation.images.wrist": (3, 16, 20), STATE: (4,), ENVIRONMENT: (5,)}
COMPONENTS = 3


@dataclass(frozen=True)
class Case:
    """A policy: its type, inputs and further entries of its configuration."""

    name: str
    type: str
    inputs: tuple[str, ...]
    config: Mapping[str, Any]


ACT = {
    "chunk_size": 6,
    "n_action_steps": 4,
    "dim_model": 16,
    "n_heads": 2,
    "dim_feedforward": 24,
    "n_encoder_layers": 1,
    "use_vae": True,
    "latent_dim": 4,
    "n_vae_encoder_layers": 1,
    "vision_backbone": "resnet_tiny",
    "pretrained_backbone_weights": None,
}
DIFFUSION = {
    "n_obs_steps": 2,
    "horizon": 8,
    "n_action_steps": 3,
    "down_dims": (16, 32),
    "n_groups": 4,
    "diffusion_step_embed_dim": 8,
    "spatial_softmax_num_keypoints": 4,
    "vision_backbone": "resnet_tiny",
    "pretrained_backbone_weights": None,
}
CASES = (
    Case("act", "act", (IMAGE, STATE), ACT),
    Case("act_ensemble", "act", (IMAGE, STATE), {**ACT, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01}),
    Case("act_state", "act", (STATE, ENVIRONMENT), {**ACT, "normalization_mapping": "QUANTILES"}),
    Case(
        "diffusion_ddim",
        "diffusion",
        (IMAGE, "observation.images.wrist", STATE),
        {**DIFFUSION, "noise_scheduler_type": "DDIM", "num_inference_steps": 5, "crop_shape": (12, 16)},
    ),
    Case("diffusion_ddpm", "diffusion", (STATE, ENVIRONMENT), {**DIFFUSION, "num_train_timesteps": 12}),
)

# Of the sizes that LeRobot has by default. Nothing of them is kept.
LARGE = (
    Case(
        "act_large",
        "act",
        (IMAGE, STATE),
        {"chunk_size": 20, "n_action_steps": 10, "pretrained_backbone_weights": None},
    ),
    Case(
        "diffusion_large",
        "diffusion",
        (IMAGE, STATE),
        {"horizon": 16, "n_action_steps": 8, "pretrained_backbone_weights": None, "num_inference_steps": 20},
    ),
)

# Takes a text; its vision-language model is that of `save_tiny_model`.
TOLD = Case(
    "smolvla",
    "smolvla",
    (IMAGE, "observation.images.wrist", STATE),
    {
        "chunk_size": 6,
        "n_action_steps": 4,
        "max_state_dim": 8,
        "max_action_dim": 8,
        "resize_imgs_with_padding": (32, 32),
        "num_steps": 4,
        "num_vlm_layers": 2,
        "tokenizer_max_length": 24,
    },
)
TEXTS = ("pick up the red cube", "go home", "open the drawer, then put the cup into it", "wipe the table")


@contextmanager
def small_backbone() -> Iterator[None]:
    """Add a backbone to torchvision that is small enough for a repository."""
    import torchvision
    from torch import nn

    def resnet_tiny(weights: Any = None, norm_layer: Any = nn.BatchNorm2d, **_: Any) -> nn.Module:
        network = nn.Module()
        network.conv1 = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
        network.bn1 = norm_layer(8)
        network.relu = nn.ReLU()
        network.layer4 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.fc = nn.Linear(16, 2)
        return network

    with patch.object(torchvision.models, "resnet_tiny", resnet_tiny, create=True):
        yield


def save_tiny_model(folder: Path) -> None:
    """Save the configuration and the processors of a small SmolVLM, whose tokeniser knows bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = {
        "pad_token": "<pad>",
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
        "video_token": "<video>",
    }
    alphabet = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokeniser = Tokenizer(models.BPE({token: place for place, token in enumerate(alphabet)}, []))
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    named = {name: token for name, token in special.items() if name != "pad_token"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokeniser, pad_token="<pad>", extra_special_tokens=named)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"model_type": "llama", "num_hidden_layers": 2, "head_dim": 16, "vocab_size": len(fast), "pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=1, pad_token_id=0
    ).save_pretrained(folder)
    SmolVLMProcessor(SmolVLMImageProcessor(), fast, SmolVLMVideoProcessor(), image_seq_len=4).save_pretrained(folder)


def save_policy(case: Case, folder: Path) -> None:
    """Save a policy with random weights and statistics as LeRobot does."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    torch.manual_seed(len(case.name))
    rng = np.random.default_rng(len(case.name))
    kinds = {STATE: FeatureType.STATE, ENVIRONMENT: FeatureType.ENV}
    entries = dict(case.config)
    if "normalization_mapping" in entries:
        mode = NormalizationMode[entries["normalization_mapping"]]
        entries["normalization_mapping"] = dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), mode)
    config = make_policy_config(
        case.type,
        input_features={name: PolicyFeature(kinds.get(name, FeatureType.VISUAL), SHAPES[name]) for name in case.inputs},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (COMPONENTS,))},
        device="cpu",
        **entries,
    )
    policy = get_policy_class(case.type)(config)
    with torch.no_grad():
        for name, part in [*policy.named_parameters(), *policy.named_buffers()]:
            # Layers that begin as identities or zeros would hide that they are left out.
            if part.is_floating_point() and "pos" not in name and "running_var" not in name:
                part.add_(0.1 * torch.randn(part.shape))
    shapes = {name: (3, 1, 1) if len(SHAPES[name]) == 3 else SHAPES[name] for name in case.inputs}
    statistics = {name: _statistics(rng, shape) for name, shape in {**shapes, "action": (COMPONENTS,)}.items()}
    before, after = make_pre_post_processors(config, dataset_stats=statistics)
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)


def _statistics(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    low = rng.uniform(-1.0, 0.0, shape)
    parts = np.cumsum([low, *rng.uniform(0.1, 0.5, (5, *shape))], axis=0)
    found = dict(zip(("min", "q01", "q10", "q90", "q99", "max"), parts, strict=True))
    found |= {"mean": parts[2], "std": rng.uniform(0.2, 0.6, shape)}
    return {name: part.astype(np.float32) for name, part in found.items()}


def draw_observations(case: Case) -> dict[str, np.ndarray]:
    """Draw `{feature: [ticks, robots, *shape]}`: images uint8, numbers float32."""
    rng, size = np.random.default_rng(7), (TICKS, len(RESETS))
    return {
        name: rng.integers(0, 256, (*size, *SHAPES[name]), np.uint8)
        if len(SHAPES[name]) == 3
        else rng.normal(size=(*size, *SHAPES[name])).astype(np.float32)
        for name in case.inputs
    }


def draw_texts() -> np.ndarray:
    """Return texts `[ticks, robots, bytes]`: another one after each reset."""
    rows = np.zeros((TICKS, len(RESETS), MAX_TASK_BYTES), np.uint8)
    for robot, resets in enumerate(RESETS):
        for place, tick in enumerate(resets):
            rows[tick:, robot] = encode_task(TEXTS[(robot + place) % len(TEXTS)])
    return rows


def lerobot_actions(folder: Path, observations: Mapping[str, np.ndarray], noise: tuple[Any, Any] | None) -> np.ndarray:
    """Return the actions `[ticks, robots, components]` that LeRobot selects.

    `noise` is that of Diffusion or SmolVLA: the first `[horizon, components]`, and that of each round.
    """
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(folder)
    first = get_policy_class(config.type).from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    actions = np.zeros((TICKS, len(RESETS), COMPONENTS), np.float32)
    for robot, resets in enumerate(RESETS):
        policy = deepcopy(first)
        for tick in range(TICKS):
            if tick in resets:
                policy.reset()
                before.reset()
                after.reset()
            batch = {}
            for name, rows in observations.items():
                values = torch.from_numpy(rows[tick, robot])
                if name == "task":
                    (batch[name],) = decode_tasks(values.numpy()[None])
                else:
                    batch[name] = values.float() / 255 if values.dtype == torch.uint8 else values
            given = {} if noise is None else {"noise": noise[0][None]}
            rounds = iter([] if noise is None else noise[1])
            with patch(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, rounds=rounds, **__: next(rounds)[None]
            ):
                action = policy.select_action(before(batch), **given)
            actions[tick, robot] = after(action)[0].numpy()
    return actions


def histories(rows: np.ndarray, resets: np.ndarray, steps: int) -> np.ndarray:
    """Return `[ticks, robots, steps, ...]`: before a reset the first observation after it."""
    found = np.zeros((*rows.shape[:2], steps, *rows.shape[2:]), rows.dtype)
    for tick, reset in enumerate(resets):
        found[tick, :, :-1] = found[tick - 1, :, 1:]
        found[tick, :, -1] = rows[tick]
        found[tick, reset] = rows[tick, reset][:, None]
    return found


def drive(policy: Any, stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the actions `[ticks, robots, components]` that follow from the plans of a policy."""
    resets, every, decay = stored["resets"], int(stored["replan_every"]), float(stored["ensemble_decay"])
    observations = {
        key: histories(stored[f"observations.{key}"], resets, int(stored["steps"]))
        if stored["steps"] > 1
        else stored[f"observations.{key}"]
        for key in policy.spec.observations
    }
    # Of each robot the tick and the actions of its plans since its reset.
    plans: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(resets.shape[1])]
    actions = np.zeros_like(stored["actions"])
    for tick, reset in enumerate(resets):
        batch = {key: torch.from_numpy(rows[tick].copy()) for key, rows in observations.items()}
        planned = policy(batch)[0].numpy()
        assert planned.shape[1] == policy.spec.horizon >= every
        for robot, own in enumerate(plans):
            if reset[robot]:
                own.clear()
            if not own or tick - own[-1][0] >= every:
                own.append((tick, planned[robot]))
            due = [plan[tick - start] for start, plan in own if tick - start < len(plan)]
            weights = [math.exp(-decay * index) for index in range(len(due))] if decay else [*[0.0] * (len(due) - 1), 1]
            actions[tick, robot] = np.average(due, axis=0, weights=weights)
    return actions


def largest_error(policy: Any, stored: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of a policy from LeRobot's actions, in shares of the range of each component."""
    expected = stored["actions"]
    return float((np.abs(drive(policy, stored) - expected) / np.ptp(expected, axis=(0, 1))).max())


def driven_by_lerobot(case: Case, folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Save a policy; return it, and the episodes that LeRobot drives."""
    from policy_node.policies import load_policy

    save_policy(case, folder)
    policy = load_policy(folder)
    denoise = getattr(policy, "_denoise", None)
    noise = None if denoise is None else (denoise.first, denoise.noise)
    observations = draw_observations(case)
    if case.name == TOLD.name:
        noise = (policy._noise, ())
        observations["task"] = draw_texts()
    actions = lerobot_actions(folder, observations, noise)
    config = json.loads((folder / "config.json").read_text())
    resets = np.zeros((TICKS, len(RESETS)), bool)
    for robot, ticks in enumerate(RESETS):
        resets[list(ticks), robot] = True
    stored = {
        "actions": actions,
        "resets": resets,
        "replan_every": np.array(config["n_action_steps"]),
        "ensemble_decay": np.array(config.get("temporal_ensemble_coeff") or 0.0),
        "steps": np.array(config.get("n_obs_steps", 1)),
        **{f"observations.{name.rpartition('.')[2]}": rows for name, rows in observations.items()},
    }
    print(f"{case.name}: with LeRobot's network {largest_error(policy, stored):.1e} of the range", flush=True)
    return policy, stored


def write(case: Case, folder: Path, target: Path) -> None:
    """Save a policy, export it, and write the episodes that LeRobot drives."""
    from policy_node.cli.export import export_policy
    from policy_node.policies import load_policy

    _, stored = driven_by_lerobot(case, folder)
    output, started = target / f"lerobot_{case.name}.onnx", time.monotonic()
    export_policy(folder, "onnx", output)
    error = largest_error(load_policy(output), stored)
    took = time.monotonic() - started
    print(f"{case.name}: exported {error:.1e} of the range, {output.stat().st_size} bytes, {took:.0f} s", flush=True)
    np.savez_compressed(target / f"lerobot_{case.name}.npz", **stored)


if __name__ == "__main__":
    names = sys.argv[1:] or [case.name for case in (*CASES, TOLD)]
    with small_backbone(), tempfile.TemporaryDirectory() as directory:
        for one in (*CASES, *LARGE):
            if one.name in names:
                write(one, Path(directory) / one.name, DATA if one in CASES else Path(directory))
        if TOLD.name in names:
            save_tiny_model(Path(directory) / "vlm")
            told = replace(TOLD, config={**TOLD.config, "vlm_model_name": str(Path(directory) / "vlm")})
            driven_by_lerobot(told, Path(directory) / told.name)

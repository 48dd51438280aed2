# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of LeRobot: features, sizes of images, histories, and the use of plans."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from policy_node.policies.descriptions import DescribedObservation, DescriptionKind, TrainerDescription
from policy_node.policies.folder import lists
from policy_node.policies.formats import PolicyFile
from policy_node.policies.lerobot import Feature, SavedLeRobot, read_lerobot

TITLE = "LeRobot's folder of a policy"


def read_folder(content: bytes, path: Path) -> TrainerDescription:
    """Return the description in a folder; raises PolicyError if it is damaged or its policy is not supported."""
    saved = read_lerobot(PolicyFile(content, str(path), hashlib.sha256(content).hexdigest(), torch.device("cpu")))
    notes, missing = {}, {}
    for key, feature in saved.inputs.items():
        prefix = f"observations.{key}"
        if feature.kind == "VISUAL":
            notes[f"{prefix}.topic"] = f"topic of '{feature.source}'"
        else:
            missing[f"{prefix}.topic"] = f"the topic of the {feature.shape[0]} numbers of {feature.source}"
            missing[f"{prefix}.type"] = "its type, such as sensor_msgs/msg/JointState with field and joints"
    if saved.task:
        missing["policy.task"] = "what the robots are to do, as [one text] or one for each robot; or policy.task_topic"
    sizes = [
        f"'{feature.source}' has images of {feature.shape[2]} × {feature.shape[1]} pixels"
        for feature in saved.inputs.values()
        if feature.kind == "VISUAL"
    ]
    return TrainerDescription(
        path=path,
        title=f"{TITLE} ({saved.config['type']})",
        policy=path,
        observations=tuple(_observation(key, feature, saved.steps) for key, feature in saved.inputs.items()),
        values=_plan(saved),
        notes=notes,
        missing=missing,
        facts=(*sizes, f"an action has {saved.components} components"),
    )


def _observation(key: str, feature: Feature, steps: int) -> DescribedObservation:
    is_image = feature.kind == "VISUAL"
    values: dict[str, Any] = {
        "topic": f"{key}/image_raw" if is_image else None,
        "type": "sensor_msgs/msg/Image" if is_image else None,
    }
    history = {"history": steps, "history_start": "first"} if steps > 1 else {}
    return DescribedObservation(key, (), {**values, **history})


def _plan(saved: SavedLeRobot) -> dict[str, Any]:
    """Return the parameters of the plans that LeRobot's `select_action` follows."""
    values: dict[str, Any] = {"chunk.replan_every": int(saved.config["n_action_steps"])}
    decay = saved.config.get("temporal_ensemble_coeff")
    if decay is not None:
        values |= {"chunk.aggregate": "ensemble", "chunk.ensemble_decay": float(decay)}
    return values


DESCRIPTION = DescriptionKind(TITLE, lists("config.json", "model.safetensors"), read_folder)

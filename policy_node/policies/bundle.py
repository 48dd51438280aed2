# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: policies of Stable-Baselines3 and training checkpoints as data, in one file that loads without running code.

A bundle is an uncompressed zip archive of ``policy.json`` (the policy class, chosen from a list, its arguments and its
spaces, or the layers of an actor; the spec and the hashes of the other members), ``weights.safetensors`` (the weights
and the statistics of ``VecNormalize``) and ``golden.safetensors`` (golden vectors).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common import torch_layers
from torch import nn
from torch.overrides import TorchFunctionMode

from policy_node.policies.archive import read_members
from policy_node.policies.checkpoints.actor import SavedActor
from policy_node.policies.contract import PolicyError, TorchPolicy
from policy_node.policies.description import spec_from_json, spec_to_json
from policy_node.policies.formats import ExportSource, PolicyFile
from policy_node.policies.golden import check_golden, golden_from_bytes, golden_to_bytes
from policy_node.policies.sb3 import SavedModel, warn_of_normalisation
from policy_node.policies.spaces import space_from_json, space_to_json
from policy_node.policies.vecnormalize import Statistics

FORMAT = "policy_node bundle"
VERSION = 1
DESCRIPTION, WEIGHTS, GOLDEN = "policy.json", "weights.safetensors", "golden.safetensors"
_ACTOR_CRITIC = ("ActorCritic", "ActorCriticCnn", "MultiInputActorCritic")
POLICY_CLASSES = {
    f"{module}.{name}": (module, name)
    for module, names in {
        "stable_baselines3.common.policies": tuple(f"{kind}Policy" for kind in _ACTOR_CRITIC),
        "stable_baselines3.sac.policies": ("SACPolicy", "CnnPolicy", "MultiInputPolicy"),
        "stable_baselines3.td3.policies": ("TD3Policy", "CnnPolicy", "MultiInputPolicy"),
        "stable_baselines3.dqn.policies": ("DQNPolicy", "CnnPolicy", "MultiInputPolicy"),
        "sb3_contrib.common.recurrent.policies": tuple(f"Recurrent{kind}Policy" for kind in _ACTOR_CRITIC),
        "sb3_contrib.common.maskable.policies": tuple(f"Maskable{kind}Policy" for kind in _ACTOR_CRITIC),
        "sb3_contrib.tqc.policies": ("TQCPolicy", "CnnPolicy", "MultiInputPolicy"),
        "sb3_contrib.crossq.policies": ("CrossQPolicy",),
        "sb3_contrib.qrdqn.policies": ("QRDQNPolicy", "CnnPolicy", "MultiInputPolicy"),
        "sb3_contrib.ars.policies": ("ARSPolicy", "ARSLinearPolicy"),
    }.items()
    for name in names
}
CLASSES: dict[str, type] = {
    **{
        f"torch.nn.{name}": getattr(nn, name)
        for name in (
            *("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid"),
            *("Mish", "ReLU", "ReLU6", "SELU", "Sigmoid", "SiLU", "Softplus", "Softsign", "Tanh", "Tanhshrink"),
        )
    },
    **{
        f"stable_baselines3.{name}": getattr(torch_layers, name)
        for name in ("FlattenExtractor", "NatureCNN", "CombinedExtractor")
    },
}
# Arguments that only training needs.
_TRAINING_ONLY = ("optimizer_class", "optimizer_kwargs")
# Elements that making a policy allocates, also more than once, beside those that the weights fill.
_ALLOWED_ELEMENTS = 2**20
_ALTERNATIVES = "export it with --format onnx or torchscript instead, or use the classes of Stable-Baselines3"


def write_bundle(source: ExportSource, output: Path) -> None:
    """Write a policy as a bundle; raises PolicyError if it uses a class that data cannot describe."""
    from safetensors.torch import save

    if isinstance(source.saved, SavedActor):
        parts: dict[str, Any] = {"layers": list(source.saved.layers)}
        tensors = {f"policy.{key}": part for key, part in source.saved.weights.items()}
    elif not isinstance(source.saved, SavedModel):
        raise PolicyError(f"the network of '{source.path}' cannot be described as data; export it with --format onnx")
    else:
        parts, tensors = _describe_sb3(source.saved, source.statistics, source.path)
    spec = source.policy.spec
    members = {WEIGHTS: save(tensors), GOLDEN: golden_to_bytes(source.golden)}
    data = {
        "format": FORMAT,
        "version": VERSION,
        "source_sha256": spec.sha256,
        "spec": spec_to_json(spec),
        **parts,
        "sha256": {key: hashlib.sha256(content).hexdigest() for key, content in members.items()},
    }
    text = json.dumps({**data, "description_sha256": _description_hash(data)}, indent=1, allow_nan=False)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for member, content in {DESCRIPTION: text.encode(), **members}.items():
            # Without the time, so that the same policy gives the same file.
            archive.writestr(zipfile.ZipInfo(member), content)


def _describe_sb3(
    saved: SavedModel, statistics: Mapping[str, Statistics], path: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the entries and the tensors of a policy of Stable-Baselines3."""
    name = f"{saved.policy_class.__module__}.{saved.policy_class.__qualname__}"
    if name not in POLICY_CLASSES or _policy_class(name) is not saved.policy_class:
        raise PolicyError(f"the policy class {name} of '{path}' cannot be described as data; {_ALTERNATIVES}")
    tensors = {f"policy.{key}": part for key, part in _without_doubles(saved.weights).items()}
    normalisation = {}
    for key, part in statistics.items():
        tensors[f"normalisation.{key}.mean"] = torch.from_numpy(part.mean.copy())
        tensors[f"normalisation.{key}.deviation"] = torch.from_numpy(part.deviation.copy())
        raw_dtype = None if part.raw_dtype is None else str(part.raw_dtype)
        normalisation[key] = {"clip": _to_json("clip_obs", part.clip, path), "raw_dtype": raw_dtype}
    arguments = {key: value for key, value in saved.arguments.items() if key not in _TRAINING_ONLY}
    parts = {
        "policy_class": name,
        "arguments": {key: _to_json(key, value, path) for key, value in arguments.items()},
        "use_sde": saved.use_sde,
        "used_vecnormalize": saved.used_vecnormalize,
        "exploration_rate": saved.exploration_rate,
        "observation_space": space_to_json(saved.observation_space),
        "action_space": space_to_json(saved.action_space),
        "normalisation": normalisation,
    }
    return parts, tensors


def load_bundle(file: PolicyFile) -> TorchPolicy:
    """Make the policy of a bundle; nothing in it is run.

    Raises PolicyError if it is damaged, was changed, or does not act as it did when it was exported.
    """
    data, members = _read(file)
    golden = golden_from_bytes(members[GOLDEN], file.path)
    try:
        saved, statistics = _saved_policy(data, members[WEIGHTS])
        spec = data["spec"]
    except PolicyError:
        raise
    except ImportError as error:
        if (error.name or "").startswith("safetensors"):
            raise
        raise file.error("is of sb3-contrib, which is not installed; pip install sb3-contrib") from error
    except Exception as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    file = replace(file, statistics=statistics)
    with _LimitedAllocation(2 * sum(part.numel() for part in saved.weights.values()) + _ALLOWED_ELEMENTS):
        policy = saved.build(replace(file, deterministic=True))
    if spec_to_json(policy.spec) != spec:
        raise _damaged(file, "its spec is not that of its policy")
    check_golden(policy, golden, file.path)
    policy.golden = golden
    if isinstance(saved, SavedModel):
        warn_of_normalisation(saved, file)
    if not file.deterministic:
        # Drawn actions cannot be compared.
        policy = saved.build(file)
    policy.interface_fields = ()
    return policy


def _read(file: PolicyFile) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the description and the members of an archive, whose hashes fit."""
    members = read_members(file.content, (DESCRIPTION, WEIGHTS, GOLDEN), file.path)
    try:
        data = json.loads(members[DESCRIPTION])
        known = data["format"] == FORMAT
    except (KeyError, TypeError, ValueError, RecursionError):
        known = False
    if not known:
        raise file.error("is no bundle; give a file that policy_export wrote")
    if data.get("version") != VERSION:
        raise file.error(f"is a bundle of version {data.get('version')}, known is {VERSION}; update policy_node")
    for name in (WEIGHTS, GOLDEN):
        if name not in members:
            raise _damaged(file, f"its member '{name}' is missing")
    try:
        hashes = {DESCRIPTION: data.pop("description_sha256"), **data["sha256"]}
        found = {DESCRIPTION: _description_hash(data)}
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, f"{type(error).__name__}: {error}") from error
    found |= {name: hashlib.sha256(members[name]).hexdigest() for name in (WEIGHTS, GOLDEN)}
    for name, sha256 in found.items():
        if hashes.get(name) != sha256:
            raise _damaged(file, f"its member '{name}' was changed after the export")
    return data, members


def _saved_policy(data: Mapping[str, Any], weights: bytes) -> tuple[SavedModel | SavedActor, dict[str, Statistics]]:
    from safetensors.torch import load

    tensors = load(weights)
    parts = {name.removeprefix("policy."): part for name, part in tensors.items() if name.startswith("policy.")}
    if "layers" in data:
        spec = spec_from_json(data["spec"], "")
        return SavedActor(spec.algorithm, tuple(map(str, data["layers"])), parts, spec.action), {}
    if data["policy_class"] not in POLICY_CLASSES:
        raise ValueError(f"its policy class {data['policy_class']!r} is not in the list of those that are known")
    statistics = {}
    for key, part in data["normalisation"].items():
        mean, deviation = (
            tensors[f"normalisation.{key}.{name}"].numpy().astype(np.float64) for name in ("mean", "deviation")
        )
        if mean.shape != deviation.shape or not (np.isfinite(mean).all() and (deviation > 0).all()):
            raise ValueError(f"the normalisation of '{key}' is not one")
        raw_dtype = None if part["raw_dtype"] is None else np.dtype(part["raw_dtype"])
        statistics[key] = Statistics(mean, deviation, float(_from_json(part["clip"])), raw_dtype)
    saved = SavedModel(
        _policy_class(data["policy_class"]),
        {key: _from_json(value) for key, value in data["arguments"].items()},
        bool(data["use_sde"]),
        space_from_json(data["observation_space"]),
        space_from_json(data["action_space"]),
        str(data["spec"]["algorithm"]),
        float(data["exploration_rate"]),
        parts,
        data.get("used_vecnormalize"),
    )
    return saved, statistics


def _policy_class(name: str) -> type:
    module, attribute = POLICY_CLASSES[name]
    return getattr(importlib.import_module(module), attribute)


def _description_hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _without_doubles(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights without those that repeat another one under a second name."""
    first: dict[tuple[Any, ...], str] = {}
    for name, part in weights.items():
        # Those without elements have no place in memory.
        place = (part.data_ptr(), tuple(part.shape), part.stride()) if part.numel() else (name,)
        first.setdefault(place, name)
    return {name: weights[name].contiguous().clone() for name in first.values()}


def _to_json(name: str, value: Any, path: str) -> Any:
    """Return an argument of a policy class as JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_to_json(f"{name}[{index}]", item, path) for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"arguments": {key: _to_json(f"{name}.{key}", item, path) for key, item in value.items()}}
    for known, allowed in CLASSES.items():
        if value is allowed:
            return {"class": known}
    shown = f"the class {value.__module__}.{value.__qualname__}" if isinstance(value, type) else repr(value)
    raise PolicyError(
        f"the argument '{name}' of the policy of '{path}' is {shown}, which cannot be described as data (allowed are "
        f"numbers, texts, lists and the classes {', '.join(CLASSES)}); {_ALTERNATIVES}"
    )


def _from_json(value: Any) -> Any:
    """Return the argument that `_to_json` described."""
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "arguments" in value:
        return {key: _from_json(item) for key, item in value["arguments"].items()}
    if "number" in value:
        return float(value["number"])
    if value["class"] not in CLASSES:
        raise ValueError(f"its class {value['class']!r} is not in the list of those that are known")
    return CLASSES[value["class"]]


class _LimitedAllocation(TorchFunctionMode):
    """Refuses to make parameters of more elements than allowed, as the arguments in a bundle may ask for."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self._left = elements

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the elements before they are allocated."""
        if func in (torch.empty, torch.zeros, torch.ones, torch.full):
            sizes = args[0] if args and isinstance(args[0], list | tuple | torch.Size) else args
            self._left -= max(1, math.prod(size for size in sizes if isinstance(size, int)))
            if self._left < 0:
                raise ValueError("its arguments make a network that is much larger than its weights")
        return func(*args, **(kwargs or {}))


def _damaged(file: PolicyFile, reason: str) -> PolicyError:
    return file.error(f"is refused: {reason}; get it again from somebody whom you trust, or export it again")

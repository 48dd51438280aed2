# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of Stable-Baselines3, run directly on tensors.

The actions are those of ``model.predict(deterministic=True)``, without what surrounds the network there: NumPy copies,
checks of the observation space, the value network and the action distribution. No training state is restored.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space

from policy_node.policies.contract import Observations, PolicyError
from policy_node.specs import ArraySpec, DiscreteSpec, PolicySpec

Network: TypeAlias = Callable[[Any], torch.Tensor]

# What the network's construction needs; everything else in the file stays unread.
_NEEDED = ("policy_class", "policy_kwargs", "use_sde", "observation_space", "action_space")
# A policy class that replaces one of these may act by other rules than the ones reproduced here.
_ACTING = (
    "predict",
    "_predict",
    "get_distribution",
    "extract_features",
    "obs_to_tensor",
    "unscale_action",
    "_get_action_dist_from_latent",
)


class Sb3Policy:
    """The actor of a Stable-Baselines3 model; see `policy_node.policies.Policy`.

    Parameters
    ----------
    spec
        What the policy takes and gives.
    device
        Where `network` and `finish` run.
    network
        From float32 observations, one tensor or a dictionary as in the model's observation space, to
        `[robots, outputs]`.
    finish
        From the network's output to final actions.
    image_keys
        The observations that are divided by 255.
    plain
        Whether `network` takes one tensor.
    """

    def __init__(
        self,
        spec: PolicySpec,
        device: torch.device,
        network: Network,
        finish: Callable[[torch.Tensor], torch.Tensor],
        image_keys: frozenset[str],
        plain: bool,
    ) -> None:
        self.spec = spec
        self.device = device
        self._network = network
        self._finish = finish
        self._image_keys = image_keys
        self._plain = plain
        self._expected = {key: (_torch_dtype(array.dtype), array.shape) for key, array in spec.observations.items()}

    def initial_state(self, robots: int) -> None:
        """Return None: these policies have no memory."""

    def reset(self, state: None, rows: torch.Tensor) -> None:
        """Return None: these policies have no memory."""

    def __call__(self, observations: Observations, state: None = None) -> tuple[torch.Tensor, None]:
        """Compute the final action of every robot; see `policy_node.policies.Policy`."""
        if isinstance(observations, torch.Tensor):
            observations = {next(iter(self._expected)): observations}
        self._check(observations)
        with torch.inference_mode():
            # Always a new tensor: a features extractor may work in place, and the observations are the caller's.
            ready = {
                key: tensor.float() / 255.0 if key in self._image_keys else tensor.to(torch.float32, copy=True)
                for key, tensor in observations.items()
            }
            return self._finish(self._network(ready["observation"] if self._plain else ready)), None

    def _check(self, observations: Mapping[str, torch.Tensor]) -> None:
        if observations.keys() != self._expected.keys():
            raise PolicyError(f"observations have the keys {sorted(observations)}; give {sorted(self._expected)}")
        robots: torch.Size | None = None
        for key, (dtype, shape) in self._expected.items():
            tensor = observations[key]
            found = tensor.shape
            if robots is None:
                robots = found[:1]
            if tensor.dtype != dtype or found[1:] != shape or found[:1] != robots or tensor.device != self.device:
                rows = str(robots[0]) if robots else "robots"
                raise PolicyError(
                    f"observation '{key}' is {_name(tensor.dtype)} {list(found)} on {tensor.device}; "
                    f"give {_name(dtype)} [{', '.join([rows, *map(str, shape)])}] on {self.device}"
                )


def load_sb3(content: bytes, path: str, device: torch.device) -> Sb3Policy:
    """Build the policy of a file that ``model.save`` wrote.

    Parameters
    ----------
    content
        The whole file.
    path
        Where it came from, for errors.
    device
        Where to run.

    Raises
    ------
    PolicyError
        If `content` is empty, damaged or of another format, or its algorithm or spaces are not supported.
    """
    saved, weights = _read(content, path)
    algorithm = _algorithm(saved)
    if algorithm not in _NETWORKS:
        raise PolicyError(
            f"policy file '{path}' holds a policy of {algorithm}; supported is {', '.join(_NETWORKS)}: "
            "train with that or convert the policy"
        )
    parts = {name: _restore(saved, name, path) for name in _NEEDED}
    observation_space, action_space = parts["observation_space"], parts["action_space"]
    plain = not isinstance(observation_space, spaces.Dict)
    keyed = {"observation": observation_space} if plain else dict(observation_space.spaces)
    spec = PolicySpec(
        observations={key: _box_spec(key, space, path) for key, space in keyed.items()},
        action=_action_spec(action_space, path),
        algorithm=algorithm,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    model = _build(parts, weights, path).to(device)
    model.set_training_mode(False)
    model.requires_grad_(False)
    if device.type == "cuda":
        # Convolutions there round their inputs to 10 bits unless told not to, a thousandth of the action range.
        torch.backends.cudnn.allow_tf32 = False
    image_keys = frozenset(key for key, space in keyed.items() if model.normalize_images and is_image_space(space))
    return Sb3Policy(spec, device, _NETWORKS[algorithm](model), _finish(spec, model, device), image_keys, plain)


def _read(content: bytes, path: str) -> tuple[dict[str, Any], bytes]:
    """Return the description of the model and the serialised weights of its policy."""
    remedy = "give a .zip file that model.save() of Stable-Baselines3 wrote"
    if not content:
        raise PolicyError(f"policy file '{path}' is empty (0 bytes); {remedy}")
    if not content.startswith(b"PK"):
        raise PolicyError(f"policy file '{path}' is no zip archive (it starts with {content[:8]!r}); {remedy}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # Of a file that is cut off, the archive of the weights inside may still be whole and be found instead.
            if min(member.header_offset for member in archive.infolist()) > 0:
                raise zipfile.BadZipFile("the directory at the end is missing")
            members = {name: archive.read(name) for name in ("data", "policy.pth") if name in archive.namelist()}
    except Exception as error:
        raise PolicyError(
            f"policy file '{path}' is cut off or damaged after {len(content)} bytes ({error}); copy or save it again"
        ) from error
    try:
        saved = json.loads(members["data"])
        complete = {"policy_class", "observation_space", "action_space"} <= saved.keys()
        weights = members["policy.pth"]
    except (KeyError, ValueError, AttributeError):
        complete = False
    if not complete:
        raise PolicyError(f"policy file '{path}' is a zip archive, but not of Stable-Baselines3; {remedy}")
    return saved, weights


def _algorithm(saved: dict[str, Any]) -> str:
    """Tell the algorithm by its settings, as the file does not name it."""
    policy_class = saved["policy_class"]
    module = policy_class.get("__module__", "") if isinstance(policy_class, dict) else ""
    if "gae_lambda" not in saved:
        # The policies of all other algorithms live in a package of that name, as in stable_baselines3.sac.policies.
        return module.split(".")[1].upper() if module.count(".") == 2 else "an unknown algorithm"
    if "clip_range" not in saved:
        return "TRPO" if "cg_max_steps" in saved else "A2C"
    if module == "sb3_contrib.common.maskable.policies":
        return "MaskablePPO"
    return "RecurrentPPO" if module == "sb3_contrib.common.recurrent.policies" else "PPO"


def _restore(saved: dict[str, Any], name: str, path: str) -> Any:
    """Return one entry of the description, unpickled if need be."""
    try:
        value = saved[name]
        if isinstance(value, dict) and ":serialized:" in value:
            return pickle.loads(base64.b64decode(value[":serialized:"]))
        return value
    except Exception as error:
        raise PolicyError(
            f"'{name}' in policy file '{path}' cannot be restored ({type(error).__name__}: {error}); "
            "install the package that defines it, or save the model again with the versions of Python, NumPy, "
            "Gymnasium and Stable-Baselines3 that are installed here"
        ) from error


def _box_spec(key: str, space: spaces.Space, path: str) -> ArraySpec:
    if not isinstance(space, spaces.Box):
        raise PolicyError(f"observation '{key}' of policy file '{path}' is {space}; supported are Box and Dict of Box")
    return ArraySpec(key, space.shape, space.dtype, space.low, space.high)


def _action_spec(space: spaces.Space, path: str) -> ArraySpec | DiscreteSpec:
    # The policy and its training counted actions from 0, whatever start the space has.
    if isinstance(space, spaces.Discrete):
        return DiscreteSpec("action", int(space.n))
    if isinstance(space, spaces.Box) and space.dtype in (np.float32, np.float64):
        return ArraySpec("action", space.shape, space.dtype, space.low, space.high)
    raise PolicyError(
        f"the action of policy file '{path}' is {space}; supported are Box of float32 or float64 and Discrete"
    )


def _build(parts: dict[str, Any], weights: bytes, path: str) -> ActorCriticPolicy:
    """Build the policy as its training did and fill in the weights."""
    policy_class = parts["policy_class"]
    if not (isinstance(policy_class, type) and issubclass(policy_class, ActorCriticPolicy)):
        raise PolicyError(
            f"the policy class of '{path}' is {policy_class}; "
            "supported are ActorCriticPolicy and classes derived from it"
        )
    replaced = [name for name in _ACTING if getattr(policy_class, name) is not getattr(ActorCriticPolicy, name)]
    if replaced:
        raise PolicyError(
            f"the policy class {policy_class.__qualname__} of '{path}' replaces {', '.join(replaced)}; "
            "supported are classes that change networks only (features extractor, mlp_extractor)"
        )
    # The device of the training is not the device of the use.
    arguments = {name: value for name, value in parts["policy_kwargs"].items() if name != "device"}
    try:
        model = policy_class(
            parts["observation_space"],
            parts["action_space"],
            lr_schedule=lambda progress: 0.0,
            use_sde=parts["use_sde"],
            **arguments,
        )
        model.load_state_dict(torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True))
    except Exception as error:
        raise PolicyError(
            f"the network of policy file '{path}' cannot be built ({type(error).__name__}: {error}); "
            "load it with the Stable-Baselines3 that is installed here and save it again"
        ) from error
    return model


def _actor_critic(model: ActorCriticPolicy) -> Network:
    extract, hidden, output = model.pi_features_extractor, model.mlp_extractor.forward_actor, model.action_net
    if model.squash_output:
        return lambda observations: torch.tanh(output(hidden(extract(observations))))
    return lambda observations: output(hidden(extract(observations)))


# From the restored policy to the network whose output `_finish` turns into actions, for each algorithm.
_NETWORKS: dict[str, Callable[[Any], Network]] = {"PPO": _actor_critic}


def _finish(spec: PolicySpec, model: BasePolicy, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the last step of the policy, in the order of operations and the precision of ``model.predict``."""
    if isinstance(spec.action, DiscreteSpec):
        # The argmax of NaN would look like a choice.
        return lambda logits: torch.where(logits.isnan().any(dim=1), -1, logits.argmax(dim=1))
    shape, dtype = (-1, *spec.action.shape), _torch_dtype(spec.action.dtype)
    low = torch.tensor(spec.action.low, device=device)
    high = torch.tensor(spec.action.high, device=device)
    if model.squash_output:
        span = high - low
        return lambda outputs: low + 0.5 * (outputs.reshape(shape) + 1.0) * span
    return lambda outputs: torch.clamp(outputs.reshape(shape).to(dtype), low, high)


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

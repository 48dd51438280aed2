# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of Stable-Baselines3 and sb3-contrib, run directly on tensors.

The actions are those of ``model.predict``, without its NumPy copies, checks of the observation space, value network
and action distribution. No training state is restored.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.config.warning import warn
from policy_node.policies.archive import read_members
from policy_node.policies.contract import PolicyError
from policy_node.policies.formats import PolicyFile, SavedPolicy
from policy_node.policies.sb3 import actions
from policy_node.policies.sb3.observations import keyed_spaces, make_normalisers, observation_spec
from policy_node.policies.sb3.pickles import find_inert, unpickle_arguments
from policy_node.policies.sb3.policy import (
    Family,
    Fresh,
    Sb3Policy,
    direct_actor,
    family_of,
    is_stock,
    predict_actor,
    replaced_methods,
)
from policy_node.policies.spaces import space_from_pickle
from policy_node.policies.vecnormalize import Normaliser

# Arguments of the policy class that only training needs, and one that was never used.
_TRAINING_ONLY = ("device", "optimizer_class", "optimizer_kwargs", "sde_net_arch")
# This module does what these stock methods do around `_predict`.
_AROUND_PREDICT = ("predict", "obs_to_tensor", "unscale_action")


@dataclass(frozen=True, eq=False)
class SavedModel:
    """The parts of a saved model that acting needs.

    Attributes
    ----------
    policy_class
        A class of Stable-Baselines3, sb3-contrib or one that derives from theirs.
    arguments
        Arguments of the policy class, apart from those below.
    use_sde
        Whether training explored with gSDE.
    observation_space, action_space
        Spaces of the policy in training, after all wrappers.
    algorithm
        Its name, such as ``PPO``.
    exploration_rate
        Share of arbitrary actions of an algorithm that explores by chance.
    weights
        All parameters and buffers of the policy by name; of shared ones a single name is enough.
    used_vecnormalize
        Whether training ran in `VecNormalize`; None where the file does not show it. Only on-policy algorithms do.
    """

    policy_class: Any
    arguments: Mapping[str, Any]
    use_sde: bool
    observation_space: spaces.Space
    action_space: spaces.Space
    algorithm: str
    exploration_rate: float
    weights: Mapping[str, torch.Tensor]
    used_vecnormalize: bool | None = None

    def build(self, file: PolicyFile) -> Sb3Policy:
        """Build the policy, see `build_sb3`."""
        return build_sb3(self, file)


def read_sb3(content: bytes, path: str) -> SavedModel:
    """Read a file that ``model.save`` wrote; this unpickles the class and arguments of the policy, which may run code.

    Everything that only training needs stays unread. Raises PolicyError if `content` is empty, damaged or of another
    format.
    """
    saved, serialised, same_python = _read(content, path)
    observation_space, action_space = (_space(saved, name, path) for name in ("observation_space", "action_space"))
    policy_class = _restore(saved, "policy_class", path)
    if not (isinstance(policy_class, type) and issubclass(policy_class, BasePolicy)):
        raise PolicyError(f"the policy class of '{path}' is {policy_class}; supported are classes of BasePolicy")
    family = family_of(policy_class)
    explores = family is not None and family.noise == "epsilon"
    try:
        weights = torch.load(io.BytesIO(serialised), map_location="cpu", weights_only=True)
    except Exception as error:
        raise _not_built(path, error) from error
    algorithm = algorithm_of(saved, policy_class)
    arguments, weights = _unshared(_arguments(saved, path, same_python), _renamed(weights, policy_class))
    return SavedModel(
        policy_class,
        arguments,
        bool(_restore(saved, "use_sde", path)),
        observation_space,
        action_space,
        algorithm,
        float(_restore(saved, "exploration_rate", path)) if explores else 0.0,
        weights,
        used_vecnormalize(saved),
    )


def load_sb3(file: PolicyFile) -> Sb3Policy:
    """Make the policy of a file that ``model.save`` wrote; see `read_sb3` and `build_sb3`."""
    saved = read_sb3(file.content, file.path)
    policy = build_sb3(saved, file)
    warn_of_normalisation(saved, file)
    return policy


def build_sb3(saved: SavedModel, file: PolicyFile) -> Sb3Policy:
    """Build a policy from a saved model of a file or bundle.

    Raises PolicyError if the algorithm or spaces are not supported, or the weights do not fit.
    """
    family, device, statistics = family_of(saved.policy_class), file.device, file.statistics
    keyed = keyed_spaces(saved.observation_space)
    normalisers = {
        key: normaliser.to(device) for key, normaliser in make_normalisers(statistics, keyed, file.path).items()
    }
    observations = {key: observation_spec(key, space, statistics.get(key), file.path) for key, space in keyed.items()}
    action = actions.action_spec(saved.action_space, file.path)
    model = _build(saved, file.path).to(device)
    model.set_training_mode(False)
    model.requires_grad_(False)
    generator = torch.Generator(device).manual_seed(file.seed)
    noise = "none" if file.deterministic or family is None else family.noise
    replaced = _replaced(model, family, saved.policy_class, file)
    if family is None or replaced:
        actor, modules = predict_actor(model, action)
    else:
        actor, modules = direct_actor(model, action, family, _exploration(saved, model, action, noise, generator))
    memory, fresh = _memory(model, normalisers, noise, generator, device)
    mask = _mask_length(saved.algorithm, action)
    spec = PolicySpec(observations, action, saved.algorithm, file.sha256, memory, mask)
    policy = Sb3Policy(spec, device, normalisers, actor, modules, fresh)
    policy.normalisation = file.normalisation
    return policy


def warn_of_normalisation(saved: SavedPolicy, file: PolicyFile) -> None:
    """Warn if statistics are given and training did not normalise, or the other way round."""
    if not isinstance(saved, SavedModel):
        return
    if saved.used_vecnormalize and not file.statistics and not file.vecnormalize:
        warn(
            f"policy file '{file.path}' was trained in VecNormalize, but runs without normalisation; give the file "
            "that VecNormalize.save() wrote (policy.vecnormalize, or policy_export --vecnormalize), unless training "
            "normalised rewards only"
        )
    if saved.used_vecnormalize is False and file.statistics:
        warn(
            f"policy file '{file.path}' was trained without VecNormalize, but observations are normalised "
            f"{file.normalisation}; leave vecnormalize out, unless training normalised them in another way"
        )


def _read(content: bytes, path: str) -> tuple[dict[str, Any], bytes, bool]:
    """Return the description of the model, the serialised weights of its policy, and whether this Python wrote it."""
    members = read_members(content, ("data", "policy.pth", "system_info.txt"), path)
    try:
        saved = json.loads(members["data"])
        complete = {"policy_class", "observation_space", "action_space"} <= saved.keys()
        weights = members["policy.pth"]
    except (KeyError, ValueError, AttributeError, RecursionError):
        complete = False
    if not complete:
        raise PolicyError(
            f"policy file '{path}' is a zip archive, but not of Stable-Baselines3; "
            "give a .zip file that model.save() of Stable-Baselines3 wrote"
        )
    if weights.startswith(b"PK"):
        # The weights are an archive themselves: of its limits torch knows nothing.
        read_members(weights, (), f"{path}/policy.pth")
    # Versions before 1.5 do not say which Python wrote the file.
    python = re.search(rb"Python: (\d+)\.(\d+)", members.get("system_info.txt", b""))
    return saved, weights, python is None or (int(python[1]), int(python[2])) == sys.version_info[:2]


def algorithm_of(saved: dict[str, Any], policy_class: type) -> str:
    """Return the algorithm, which the file does not name, by its settings."""
    modules = [base.__module__ for base in policy_class.__mro__]
    if "gae_lambda" in saved:
        if "sb3_contrib.common.maskable.policies" in modules:
            return "MaskablePPO"
        if "sb3_contrib.common.recurrent.policies" in modules:
            return "RecurrentPPO"
        if "clip_range" not in saved:
            return "TRPO" if "cg_max_steps" in saved else "A2C"
        return "PPO"
    if "n_delta" in saved:
        return "ARS"
    if "stable_baselines3.td3.policies" in modules:
        # DDPG is TD3 without its additions.
        return "DDPG" if saved.get("policy_delay") == 1 and saved.get("target_noise_clip") == 0 else "TD3"
    # The policies of each other algorithm live in a package of its name.
    names = {"sac": "SAC", "tqc": "TQC", "crossq": "CrossQ", "dqn": "DQN", "qrdqn": "QRDQN"}
    packages = (module.split(".")[1] for module in modules if module.count(".") == 2)
    return next((names[package] for package in packages if package in names), policy_class.__qualname__)


def _space(saved: dict[str, Any], name: str, path: str) -> spaces.Space:
    """Return a space of the description; nothing of its pickle is run."""
    try:
        return space_from_pickle(base64.b64decode(saved[name][":serialized:"]))
    except Exception as error:
        raise PolicyError(
            f"'{name}' in policy file '{path}' cannot be read ({type(error).__name__}: {error}); supported are "
            "the spaces of Gymnasium and OpenAI gym, which are read as data: save the model again with these"
        ) from error


def _arguments(saved: dict[str, Any], path: str, same_python: bool) -> dict[str, Any]:
    """Return the arguments of the policy class without those that only training needs."""
    arguments = _restore(saved, "policy_kwargs", path, partial(unpickle_arguments, same_python=same_python))
    if not isinstance(arguments, dict):
        raise PolicyError(
            f"'policy_kwargs' in policy file '{path}' is a {type(arguments).__name__}, allowed is a dict; "
            "save the model again"
        )
    arguments = {name: value for name, value in arguments.items() if name not in _TRAINING_ONLY}
    # A list of one dictionary is the way of versions before 1.8.
    layers = arguments.get("net_arch")
    if isinstance(layers, list) and len(layers) == 1 and isinstance(layers[0], dict):
        arguments["net_arch"] = layers[0]
    for name, value in arguments.items():
        found = find_inert(name, value)
        if found is not None:
            raise PolicyError(
                f"the argument '{found[0]}' in policy_kwargs of policy file '{path}' cannot be restored: it is "
                f"{found[1]}; install the package that defines it, or load and save the model with the Python that "
                f"wrote it after replacing it by a class of a module"
            )
    return arguments


def _restore(saved: dict[str, Any], name: str, path: str, unpickle: Callable[[bytes], Any] = pickle.loads) -> Any:
    """Return one entry of the description, unpickled if need be."""
    try:
        value = saved[name]
        if isinstance(value, dict) and ":serialized:" in value:
            return unpickle(base64.b64decode(value[":serialized:"]))
        return value
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "sb3_contrib":
            raise PolicyError(
                f"policy file '{path}' needs {error.name}, which is not installed; pip install --upgrade sb3-contrib"
            ) from error
        raise PolicyError(
            f"'{name}' in policy file '{path}' cannot be restored ({type(error).__name__}: {error}); "
            "install the package that defines it, or save the model again with the versions of Python, NumPy, "
            "Gymnasium and Stable-Baselines3 that are installed here"
        ) from error


def used_vecnormalize(saved: dict[str, Any]) -> bool | None:
    """Return whether training kept an observation from before `VecNormalize`.

    None if it never ran, or the algorithm is not on-policy, so that the file does not show it.
    """
    if not {"gae_lambda", "n_delta"} & saved.keys():
        return None
    if saved.get("_last_original_obs") is not None:
        return True
    return None if saved.get("_last_obs") is None else False


def _renamed(weights: Mapping[str, torch.Tensor], policy_class: type) -> Mapping[str, torch.Tensor]:
    """Return weights with the names of today."""
    if not any(base.__qualname__ == "ARSLinearPolicy" for base in policy_class.__mro__):
        return weights
    # Before version 1.7 of sb3-contrib its network was a single layer.
    return {re.sub(r"^action_net\.(weight|bias)$", r"action_net.0.\1", name): part for name, part in weights.items()}


def _unshared(
    arguments: dict[str, Any], weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """Give the actor and the critic each the layers that they could share before version 1.8."""
    found = re.compile(r"mlp_extractor\.(shared|policy|value)_net\.(\d+)(\..*)").fullmatch
    if not any(name.startswith("mlp_extractor.shared_net.") for name in weights):
        return arguments, weights
    layers = list(arguments["net_arch"])
    heads = layers.pop() if isinstance(layers[-1], dict) else {}
    parts: dict[str, torch.Tensor] = {}
    for name, part in weights.items():
        if (match := found(name)) is None:
            parts[name] = part
        elif match[1] == "shared":
            parts |= {f"mlp_extractor.{head}_net.{match[2]}{match[3]}": part.clone() for head in ("policy", "value")}
        else:
            # Each layer is followed by its activation.
            parts[f"mlp_extractor.{match[1]}_net.{int(match[2]) + 2 * len(layers)}{match[3]}"] = part
    net_arch = {head: [*layers, *heads.get(head, [])] for head in ("pi", "vf")}
    return {**arguments, "net_arch": net_arch}, parts


def _build(saved: SavedModel, path: str) -> Any:
    """Build the policy as its training did and fill in the weights."""
    try:
        arguments = dict(saved.arguments)
        if saved.algorithm != "ARS":
            arguments["lr_schedule"] = lambda progress: 0.0
            if is_stock(saved.policy_class):
                arguments["optimizer_class"] = _no_optimiser
        if saved.algorithm in ("PPO", "A2C", "TRPO", "RecurrentPPO"):
            arguments["use_sde"] = saved.use_sde
        model = saved.policy_class(saved.observation_space, saved.action_space, **arguments)
        # One name is enough for weights that several parts share; files older than 1.7 have no more.
        found = {part.data_ptr(): saved.weights[name] for name, part in _tensors(model) if name in saved.weights}
        shared = {name: found[part.data_ptr()] for name, part in _tensors(model) if part.data_ptr() in found}
        model.load_state_dict({**shared, **saved.weights})
    except Exception as error:
        raise _not_built(path, error) from error
    return model


def _no_optimiser(*_: Any, **__: Any) -> None:
    """Replace the optimiser: those of PyTorch import its whole compiler, which takes longer than everything else."""


def _tensors(model: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters and buffers that have elements, and so a place in memory."""
    return [(name, part) for name, part in model.state_dict().items() if part.numel()]


def _not_built(path: str, error: Exception) -> PolicyError:
    return PolicyError(
        f"the network of policy file '{path}' cannot be built ({type(error).__name__}: {error}); "
        "load it with the Stable-Baselines3 that is installed here and save it again"
    )


def _replaced(model: Any, family: Family | None, policy_class: type, file: PolicyFile) -> list[str]:
    """Return the methods that decide the action and that a custom policy class replaces, and warn of them."""
    around = [name for name in _AROUND_PREDICT if not is_stock(getattr(policy_class, name))]
    if around:
        raise PolicyError(
            f"the policy class {policy_class.__qualname__} of '{file.path}' replaces {', '.join(around)}, which work "
            "on NumPy arrays; put its rules into _predict"
        )
    replaced = [policy_class.__qualname__] if family is None else replaced_methods(model, family)
    if replaced and not file.deterministic:
        raise file.error(
            f"acts by its own rules ({', '.join(replaced)}), whose noise cannot be seeded; use deterministic=True"
        )
    if replaced:
        warn(
            f"policy file '{file.path}' acts by its own rules ({', '.join(replaced)}): its _predict is run, which is "
            "slower; compare its actions with those of model.predict"
        )
    return replaced


def _exploration(
    saved: SavedModel, model: Any, action: ActionSpec, noise: str, generator: torch.Generator
) -> actions.Explore | None:
    """Return the function that adds noise to the outputs, None for deterministic actions."""
    if noise == "none":
        return None
    if noise == "epsilon":
        return actions.explore_epsilon(saved.exploration_rate, generator)
    if not isinstance(action, ArraySpec):
        distribution = type(model.action_dist).__name__
        return actions.explore_choice(generator, bits=distribution == "BernoulliDistribution")
    actor = getattr(model, "actor", model)
    if isinstance(actor.action_dist, StateDependentNoiseDistribution):
        return actions.explore_state_dependent
    return actions.explore_gaussian(actor.log_std, generator)


def _memory(
    model: Any, normalisers: Mapping[str, Normaliser], noise: str, generator: torch.Generator, device: torch.device
) -> tuple[dict[str, ArraySpec], dict[str, Fresh]]:
    """Return the specs of each robot's memory, and the functions that make it for robots that have seen nothing yet."""
    specs: dict[str, ArraySpec] = {}
    fresh: dict[str, Fresh] = {}
    lstm = getattr(model, "lstm_actor", None)
    if lstm is not None:
        layers = (lstm.num_layers, lstm.hidden_size)
        for name in ("hidden", "cell"):
            specs[name] = ArraySpec(name, layers, np.float32, -np.inf, np.inf)
            fresh[name] = lambda robots: torch.zeros((robots, *layers), device=device)
    if any(normaliser.steps > 1 for normaliser in normalisers.values()):
        specs["frames"] = ArraySpec("frames", (), np.int64, 0, np.iinfo(np.int64).max)
        fresh["frames"] = lambda robots: torch.zeros(robots, dtype=torch.int64, device=device)
    actor = getattr(model, "actor", model)
    distribution = getattr(actor, "action_dist", None)
    if noise == "distribution" and isinstance(distribution, StateDependentNoiseDistribution):
        deviation = distribution.get_std(actor.log_std)
        specs["noise"] = ArraySpec("noise", tuple(deviation.shape), np.float32, -np.inf, np.inf)
        fresh["noise"] = lambda robots: (
            deviation * torch.randn((robots, *deviation.shape), generator=generator, device=device)
        )
    return specs, fresh


def _mask_length(algorithm: str, action: ActionSpec) -> int:
    if algorithm != "MaskablePPO" or isinstance(action, ArraySpec):
        return 0
    return action.n if isinstance(action, DiscreteSpec) else sum(action.choices)

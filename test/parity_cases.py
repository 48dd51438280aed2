# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The combinations of algorithm, spaces, wrappers and options whose actions are compared, and their small models."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.crossq.policies import CrossQPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

ROBOTS = 3
STACK = 3
ON_POLICY = ("PPO", "A2C", "TRPO", "RecurrentPPO")
GAUSSIAN = ("SAC", "TQC", "CrossQ")
ALGORITHMS = (*ON_POLICY, "MaskablePPO", *GAUSSIAN, "TD3", "DDPG", "DQN", "QRDQN", "ARS")


def box(shape: tuple[int, ...], low: Any, high: Any, dtype: type = np.float32) -> spaces.Box:
    bounds = (np.broadcast_to(bound, shape).astype(dtype) for bound in (low, high))
    return spaces.Box(*bounds, dtype=dtype)


VECTOR = box((5,), -3.0, 3.0)
OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "vector float64": box((4,), [-1.0, -2.0, 0.0, -np.inf], [1.0, 2.0, 5.0, np.inf], np.float64),
    "vector uint8": box((6,), 0, 255, np.uint8),
    "image HWC": box((36, 40, 3), 0, 255, np.uint8),
    "image CHW": box((3, 36, 40), 0, 255, np.uint8),
    "image CHW, not scaled": box((3, 36, 40), 0, 255, np.uint8),
    "image CHW float": box((3, 36, 40), 0.0, 1.0),
    "Dict": spaces.Dict({"touch": box((4,), 0.0, np.inf), "camera": box((36, 40, 3), 0, 255, np.uint8)}),
    "Dict with categories": spaces.Dict(
        {
            "pose": VECTOR,
            "gear": spaces.Discrete(3),
            "switches": spaces.MultiBinary(3),
            "modes": spaces.MultiDiscrete([2, 4]),
        }
    ),
    "Discrete": spaces.Discrete(6),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(5),
}
ACTIONS: dict[str, spaces.Space] = {
    "Box": box((3,), [-0.3, -1.0, 0.0], [0.7, 1.5, 20.0]),
    "Box float64": box((2, 2), -1 / 3, [1.0, 7.0], np.float64),
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "MultiBinary": spaces.MultiBinary(4),
}
CHOICES = ("Discrete", "MultiDiscrete", "MultiBinary")

# What Stable-Baselines3 itself cannot do with these observations.
IMPOSSIBLE = {
    ("ARS", "Dict"): "ARS has no policy for Dict observations",
    ("ARS", "Dict with categories"): "ARS has no policy for Dict observations",
    ("ARS", "image CHW, not scaled"): "policies of ARS have no `normalize_images`",
    ("RecurrentPPO", "MultiDiscrete"): "the size of its one-hot code is no `int`, which `torch.nn.LSTM` refuses",
    ("RecurrentPPO", "Dict with categories"): "as with MultiDiscrete, which is one of its categories",
}

# From the environments of all robots outwards.
WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "none": lambda venv: venv,
    "stack": lambda venv: stack(venv),
    "normalise": lambda venv: normalise(venv),
    "normalise all keys": lambda venv: normalise(venv, every_key=True),
    "stack, normalise": lambda venv: normalise(stack(venv)),
    "normalise, stack": lambda venv: stack(normalise(venv)),
}


def stack(venv: VecEnv) -> VecFrameStack:
    # Images of floats are stacked over their width unless their channels are said to be first.
    space = venv.observation_space
    first = isinstance(space, spaces.Box) and space.dtype == np.float32 and len(space.shape) == 3
    return VecFrameStack(venv, STACK, channels_order="first" if first else None)


def normalise(venv: VecEnv, every_key: bool = False) -> VecNormalize:
    """Normalise with statistics that differ from number to number, and clip some of them."""
    is_dict = isinstance(venv.observation_space, spaces.Dict)
    keys = ["touch"] if is_dict and not every_key else None
    wrapped = VecNormalize(venv, training=False, norm_reward=False, clip_obs=1.5, norm_obs_keys=keys)
    statistics = wrapped.obs_rms.values() if isinstance(wrapped.obs_rms, dict) else [wrapped.obs_rms]
    rng = np.random.default_rng(3)
    for part in statistics:
        scale = 100.0 if part.mean.ndim == 3 or venv.observation_space.dtype == np.uint8 else 1.0
        part.mean = scale * rng.normal(0.5, 0.5, part.mean.shape)
        part.var = scale**2 * rng.uniform(0.2, 2.0, part.var.shape)
    return wrapped


class Halving(ActorCriticPolicy):
    """Acts by a rule of its own."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return 0.5 * super()._predict(observation, deterministic)


class CautiousSac(SACPolicy):
    """Acts by a rule of its own."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return 0.3 * super()._predict(observation, deterministic)


class LastOfDqn(DQNPolicy):
    """Acts by a rule of its own."""

    def _predict(self, obs: Any, deterministic: bool = True) -> torch.Tensor:
        return self.q_net(obs).argmin(dim=1)


class OwnExtractor(BaseFeaturesExtractor):
    """Behaves otherwise in training, so it shows a forgotten evaluation mode."""

    def __init__(self, observation_space: spaces.Box, width: int = 8) -> None:
        super().__init__(observation_space, features_dim=width)
        self.layers = nn.Sequential(
            nn.Linear(observation_space.shape[0], width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.ELU()
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


OWN_EXTRACTOR = {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"width": 9}}


@dataclass(frozen=True)
class Case:
    """One row of the table: all action spaces of one combination.

    Attributes
    ----------
    algorithm, observation, wrappers
        Names from above.
    option
        What is special about the policy.
    actions
        Names of action spaces.
    arguments
        Further arguments of the algorithm.
    policy
        A policy class instead of the usual name.
    """

    algorithm: str
    observation: str
    wrappers: str = "none"
    option: str = ""
    actions: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    policy: Any = None

    def __str__(self) -> str:
        return "-".join(part for part in (self.algorithm, self.observation, self.wrappers, self.option) if part)


def action_names(algorithm: str) -> tuple[str, ...]:
    """Return the action spaces that an algorithm can use."""
    if algorithm in ON_POLICY:
        return tuple(ACTIONS)
    if algorithm == "MaskablePPO":
        return CHOICES
    if algorithm in ("DQN", "QRDQN"):
        return ("Discrete",)
    return ("Box", "Box float64", "Discrete") if algorithm == "ARS" else ("Box", "Box float64")


def all_cases() -> list[Case]:
    """Return all rows of the table."""
    cases = []
    for algorithm in ALGORITHMS:
        actions = action_names(algorithm)
        for observation in OBSERVATIONS:
            if (algorithm, observation) not in IMPOSSIBLE:
                cases.append(Case(algorithm, observation, actions=actions))
        # Wrappers know nothing of actions.
        first = actions[:1]
        for wrappers in list(WRAPPERS)[1:]:
            if wrappers != "normalise all keys":
                cases.append(Case(algorithm, "vector", wrappers, actions=first))
            if algorithm != "ARS":
                cases.append(Case(algorithm, "Dict", wrappers, actions=first))
        for observation in ("image HWC", "image CHW", "image CHW float"):
            cases.append(Case(algorithm, observation, "stack", actions=first))
        unscaled = {"policy_kwargs": {"normalize_images": False}} if algorithm != "ARS" else {}
        for wrappers in ("normalise", "stack, normalise", "normalise, stack"):
            cases.append(Case(algorithm, "image CHW", wrappers, "not scaled", first, unscaled))
        cases.append(Case(algorithm, "vector float64", "normalise, stack", actions=first))
        cases.append(Case(algorithm, "vector uint8", "stack, normalise", actions=first))
        cases += _options(algorithm, first)
    return cases


def _options(algorithm: str, first: tuple[str, ...]) -> list[Case]:
    boxes = ("Box", "Box float64")

    def option(name: str, observation: str = "vector", actions: tuple[str, ...] = first, **kwargs: Any) -> Case:
        sde = {"use_sde": True} if "gSDE" in name else {}
        return Case(algorithm, observation, option=name, actions=actions, arguments={**sde, "policy_kwargs": kwargs})

    if algorithm == "ARS":
        return [
            option("squash_output=False", actions=boxes, squash_output=False),
            Case(algorithm, "vector", option="LinearPolicy", actions=(*boxes, "Discrete"), policy="LinearPolicy"),
        ]
    cases = [option("own extractor", **OWN_EXTRACTOR)]
    if algorithm in (*ON_POLICY, "MaskablePPO"):
        separate = {"share_features_extractor": False}
        cases += [
            option("separate extractors", "image HWC", **separate),
            option("separate extractors", "Dict", **separate),
            option("separate extractors, own", **OWN_EXTRACTOR, **separate),
            option("no hidden layer", net_arch=[]),
        ]
    if algorithm in ON_POLICY:
        cases += [
            option("gSDE", actions=boxes),
            option("gSDE, squash_output", actions=boxes, squash_output=True),
            option("gSDE, squash_output", "Dict", actions=boxes, squash_output=True),
            option("gSDE, full_std=False, use_expln", full_std=False, use_expln=True),
        ]
    if algorithm in GAUSSIAN:
        cases += [
            option("gSDE", actions=boxes),
            option("gSDE, clip_mean", clip_mean=0.2),
            option("gSDE, clip_mean=0", clip_mean=0.0),
        ]
    if algorithm in ("SAC", "TQC", "TD3", "DDPG"):
        cases.append(option("shared extractor", "Dict", share_features_extractor=True))
    if algorithm == "RecurrentPPO":
        cases += [
            option("two LSTM layers", n_lstm_layers=2),
            option("shared LSTM", shared_lstm=True, enable_critic_lstm=False),
            option("no LSTM of the critic", enable_critic_lstm=False),
            Case(
                algorithm,
                "vector",
                "stack, normalise",
                "gSDE, squash_output",
                boxes,
                {"use_sde": True, "policy_kwargs": {"squash_output": True}},
            ),
        ]
    if algorithm == "MaskablePPO":
        cases.append(option("no masks", actions=CHOICES))
    if algorithm == "QRDQN":
        cases.append(option("7 quantiles", n_quantiles=7))
    own: dict[str, Any] = {"PPO": Halving, "SAC": CautiousSac, "DQN": LastOfDqn}
    if algorithm in own:
        cases.append(Case(algorithm, "vector", "stack, normalise", "own _predict", first, policy=own[algorithm]))
    return cases


class Wandering(gymnasium.Env):
    """An environment whose episodes end after a fixed number of steps and whose observations are drawn."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, robot: int) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self._length = 3 + 2 * robot
        self._steps = 0
        self.observation_space.seed(robot)
        self._rng = np.random.default_rng(robot)
        self.last: Any = None

    def _observe(self) -> Any:
        self.last = self._paint(self.observation_space.sample())
        return self.last

    def _paint(self, observation: Any) -> Any:
        """Give images 4 by 4 blocks of colour and a brightness, as pure noise looks alike to a convolution."""
        if isinstance(observation, dict):
            return {key: self._paint(part) for key, part in observation.items()}
        if np.ndim(observation) != 3:
            return observation
        blocks = self._rng.random((4, 4, 3)).repeat(9, axis=0).repeat(10, axis=1) * self._rng.uniform(0.1, 1.0)
        return (observation * (blocks.transpose(2, 0, 1) if len(observation) == 3 else blocks)).astype(
            observation.dtype
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._observe(), 0.0, self._steps == self._length, False, {}


def make_environments(case: Case, action: str) -> tuple[list[Wandering], VecEnv]:
    """Return the environments of all robots, and the same with their wrappers."""
    inner = [
        Wandering(copy.deepcopy(OBSERVATIONS[case.observation]), ACTIONS[action], robot) for robot in range(ROBOTS)
    ]
    makers: Sequence[Callable[[], gymnasium.Env]] = [lambda env=env: env for env in inner]
    return inner, WRAPPERS[case.wrappers](DummyVecEnv(list(makers)))


def make_model(case: Case, venv: VecEnv) -> BaseAlgorithm:
    """Build a small model with random weights, so that actions differ and some reach their bounds."""
    algorithm = getattr(stable_baselines3, case.algorithm, None) or getattr(sb3_contrib, case.algorithm)
    arguments = {**case.arguments}
    kwargs = {"net_arch": [16, 8], **arguments.pop("policy_kwargs", {})}
    is_dict, is_image = case.observation.startswith("Dict"), case.observation.startswith("image")
    small = case.algorithm != "ARS"
    if is_image and small:
        kwargs["features_extractor_kwargs"] = {"features_dim": 12}
    if is_dict and small:
        kwargs["features_extractor_kwargs"] = {"cnn_output_dim": 12}
    name = "MultiInput" if is_dict else "Cnn" if is_image and small else "Mlp"
    policy: Any = case.policy or f"{name}{'Lstm' if case.algorithm == 'RecurrentPPO' else ''}Policy"
    if small and case.observation in ("image CHW, not scaled", "image CHW float"):
        kwargs["normalize_images"] = False
    if case.algorithm == "CrossQ" and (is_dict or is_image):
        # It has one policy class only, which takes the extractors of the others.
        policy, kwargs["features_extractor_class"] = CrossQPolicy, CombinedExtractor if is_dict else NatureCNN
    if case.algorithm == "RecurrentPPO":
        kwargs["lstm_hidden_size"] = 10
    if policy == "LinearPolicy":
        del kwargs["net_arch"]
    if case.algorithm in ("PPO", "A2C", "RecurrentPPO", "MaskablePPO"):
        arguments["n_steps"] = 2
    if case.algorithm in ("PPO", "RecurrentPPO", "MaskablePPO"):
        arguments["batch_size"] = 2
    if case.algorithm in (*GAUSSIAN, "TD3", "DDPG", "DQN", "QRDQN"):
        arguments["buffer_size"] = 1
    model = algorithm(policy, venv, policy_kwargs=kwargs, device="cpu", **arguments)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.policy.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0.0, 1.5 / float(np.sqrt(tensor[0].numel())), generator=generator)
            if case.observation == "image CHW, not scaled" and name.endswith("cnn.0.weight"):
                # Numbers up to 255 would saturate everything behind.
                tensor /= 255.0
        elif tensor.is_floating_point():
            # Constants in a convolution would outweigh what differs between its images.
            tensor.normal_(0.0, 0.0 if ".cnn." in name or ".linear." in name else 0.3, generator=generator)
            if name.endswith(("_var", "scale")):
                tensor.abs_().add_(0.5)
    _calibrate(model, venv)
    return model


def _renormalise(module: BatchRenorm1d, inputs: tuple[torch.Tensor]) -> None:
    module.ra_var, module.ra_mean = torch.var_mean(inputs[0], dim=0)
    module.ra_var += 1e-4


def _calibrate(model: BaseAlgorithm, venv: VecEnv) -> None:
    """Scale normalisations and the last layer so that their outputs differ from observation to observation."""
    names = ("action_net", "actor.mu", "q_net.q_net", "quantile_net.quantile_net")
    owner = next(module for name, module in model.policy.named_modules() if name in names)
    last = [module for module in owner.modules() if isinstance(module, nn.Linear)][-1]
    outputs: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    observations = venv.reset()
    renormalisations = [module for module in model.policy.modules() if isinstance(module, BatchRenorm1d)]
    once = [module.register_forward_pre_hook(_renormalise) for module in renormalisations]
    model.predict(observations, deterministic=True)
    for handle in once:
        handle.remove()
    outputs.clear()
    for _ in range(5):
        actions, _ = model.predict(observations, deterministic=True)
        observations, _, _, _ = venv.step(actions)
    hook.remove()
    deviation, mean = torch.std_mean(torch.cat(outputs), dim=0)
    # Half of most action ranges: some actions reach the bounds, some do not.
    deviation *= 2.0
    with torch.no_grad():
        last.weight /= deviation[:, None]
        if last.bias is not None:
            last.bias += -mean
            last.bias /= deviation

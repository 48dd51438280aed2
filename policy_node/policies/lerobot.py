# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of LeRobot: ACT, Diffusion and SmolVLA, from the folders that `save_pretrained` writes.

The configuration, the weights and the processors are read as data. The network is LeRobot's; scaling of images,
normalisation and the denoising loop of Diffusion are here, so that all of ACT and Diffusion can be exported.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.config.tasks import decode_tasks, task_spec
from policy_node.policies.contract import Policy, PolicyError, Tensors, TorchPolicy
from policy_node.policies.description import spec_to_json
from policy_node.policies.folder import listed, read_listed
from policy_node.policies.formats import MAX_POLICY_BYTES, PolicyFile

MAX_JSON_BYTES = 2**24
# Steps of processors that make tokens of a text.
_NEW_LINE, _TOKENISER = "smolvla_new_line_processor", "tokenizer_processor"
# Steps of processors that only arrange what this package arranges itself.
_ARRANGING = ("rename_observations_processor", "to_batch_processor", "device_processor")
# Statistics by mode of normalisation: those that become 0, or -1 and 1.
_STATISTICS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
_IMAGES, _STATE, _ENVIRONMENT = "observation.images", "observation.state", "observation.environment_state"
_PIXEL_MAX = 255
# Key of the text, and LeRobot's names of its tokens.
_TASK, _TOKENS, _TOKEN_MASK = "task", "observation.language.tokens", "observation.language.attention_mask"


@dataclass(frozen=True)
class Feature:
    """An input of the network.

    Attributes
    ----------
    name
        As the network takes it.
    source
        As the training data have it; a processor may rename it.
    """

    name: str
    source: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SavedLeRobot:
    """The content of a folder, without the weights.

    Attributes
    ----------
    inputs
        Features by the key of the observation.
    normalisers
        By name of the feature, ``action`` among them; features without one are taken as they are.
    tokeniser
        Configuration of the step that makes tokens of a text; None for a policy that takes none.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Feature]
    components: int
    normalisers: Mapping[str, Normaliser]
    tokeniser: Mapping[str, Any] | None

    def build(self, file: PolicyFile) -> LeRobotPolicy:
        """Make the policy; raises PolicyError if configuration and weights do not fit each other."""
        try:
            return _KINDS[self.config["type"]](self, file)
        except PolicyError:
            raise
        except ModuleNotFoundError as error:
            alternative = "" if self.tokeniser else ", or run the ONNX file that policy_export makes of it there"
            raise file.error(
                f"needs LeRobot, of which {error.name} is not installed; pip install 'lerobot[{_extra(self.config)}]' "
                f"with Python 3.12 or newer{alternative}"
            ) from error
        except OSError as error:
            if self.tokeniser is None:
                raise self._unfit(file, error) from error
            # As transformers says that neither the Hub nor its cache has a model.
            names = {self.config.get("vlm_model_name"), (self.tokeniser or {}).get("tokenizer_name")} - {None}
            raise file.error(
                f"needs {' and '.join(sorted(map(str, names)))} of the Hugging Face Hub, whose weights are not needed "
                f"({str(error).splitlines()[0]}); fetch it once, such as with `hf download NAME`, or name the folder "
                "of a copy in its config.json and policy_preprocessor.json"
            ) from error
        except Exception as error:
            raise self._unfit(file, error) from error

    def _unfit(self, file: PolicyFile, error: Exception) -> PolicyError:
        return file.error(
            f"cannot be made a policy by the installed LeRobot ({type(error).__name__}: {error}); "
            "install the version that saved it"
        )

    @property
    def task(self) -> str:
        """Key of the text that the network takes; empty if it takes none."""
        return _TASK if self.tokeniser is not None else ""

    @property
    def steps(self) -> int:
        """Number of observations that the network takes."""
        return int(self.config.get("n_obs_steps", 1))

    def observations(self) -> dict[str, ArraySpec]:
        """Return the specs of the observations; those of several steps have them on the first axis."""
        history = (self.steps,) if self.steps > 1 else ()
        text = {_TASK: task_spec(_TASK)} if self.tokeniser is not None else {}
        return text | {
            key: ArraySpec(key, (*history, *feature.shape), np.uint8, 0, _PIXEL_MAX)
            if feature.kind == "VISUAL"
            else ArraySpec(key, (*history, *feature.shape), np.float32, -np.inf, np.inf)
            for key, feature in self.inputs.items()
        }


class Normaliser(nn.Module):
    """Normalisation as in LeRobot's processors, in its order of operations.

    Parameters
    ----------
    mode
        A key of `_STATISTICS`.
    statistics
        By name, such as ``mean``.
    epsilon
        Added to a deviation, or in place of a range of 0.
    is_inverse
        Whether it is that of the action, from the network's numbers to those of the training data.
    """

    offset: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, mode: str, statistics: Mapping[str, torch.Tensor], epsilon: float, is_inverse: bool = False
    ) -> None:
        super().__init__()
        low, high = (statistics[name].float() for name in _STATISTICS[mode])
        self._is_mean = mode == "MEAN_STD"
        self._is_inverse = is_inverse
        if self._is_mean:
            scale = high if is_inverse else high + epsilon
        else:
            scale = torch.where(high == low, epsilon, high - low)
        self.register_buffer("offset", low)
        self.register_buffer("scale", scale)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise numbers, or undo it for an action."""
        if self._is_mean:
            return values * self.scale + self.offset if self._is_inverse else (values - self.offset) / self.scale
        if self._is_inverse:
            return (values + 1) / 2 * self.scale + self.offset
        return 2 * (values - self.offset) / self.scale - 1


def read_lerobot(file: PolicyFile) -> SavedLeRobot:
    """Read the description of a policy; raises PolicyError if parts are missing or not supported."""
    config = _read_json(file, "config.json")
    kind = config.get("type")
    if kind not in _KINDS:
        raise file.error(
            f"is a policy of LeRobot of the type '{kind}'; supported are {', '.join(map(repr, _KINDS))}: serve others "
            "with LeRobot itself"
        )
    if config.get("use_peft"):
        raise file.error("is an adapter (use_peft) without the weights that it adapts; merge and save it again")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        if f"  {name}\n".encode() not in file.content:
            raise file.error(
                f"has no '{name}', which holds the normalisation; copy all of its files, or convert a policy of an "
                "earlier LeRobot (lerobot.processor.migrate_policy_normalization)"
            )
    try:
        return _describe(file, config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, PolicyError):
            raise
        raise file.error(f"is no folder of LeRobot, or damaged ({type(error).__name__}: {error})") from error


def _describe(file: PolicyFile, config: Mapping[str, Any]) -> SavedLeRobot:
    of_text = (_NEW_LINE, _TOKENISER) if _KINDS[config["type"]].takes_task else ()
    before = _steps(file, "policy_preprocessor.json", (*_ARRANGING, "normalizer_processor", *of_text))
    after = _steps(file, "policy_postprocessor.json", (*_ARRANGING, "unnormalizer_processor"))
    renamed: dict[str, str] = {}
    for step in before:
        renamed |= step["config"].get("rename_map", {})
    sources = {target: source for source, target in renamed.items()}
    features = [
        Feature(name, sources.get(name, name), str(feature["type"]), tuple(map(int, feature["shape"])))
        for name, feature in config["input_features"].items()
        # LeRobot's names of cameras that are not there.
        if not (config.get("empty_cameras") and name.startswith(f"{_IMAGES}.empty_camera_"))
    ]
    for feature in features:
        if feature.kind not in ("VISUAL", "STATE", "ENV"):
            raise file.error(f"takes '{feature.name}' of the kind {feature.kind}; supported are VISUAL, STATE and ENV")
    outputs = config["output_features"]
    if list(outputs) != ["action"] or len(outputs["action"]["shape"]) != 1:
        raise file.error(f"has the outputs {outputs}; supported is one vector 'action'")
    normalisers = {
        **_normalisers(file, before, "normalizer_processor", {feature.name: feature.kind for feature in features}),
        **_normalisers(file, after, "unnormalizer_processor", {"action": "ACTION"}),
    }
    tokenisers = [step["config"] for step in before if step.get("registry_name") == _TOKENISER]
    if len(tokenisers) != int(_KINDS[config["type"]].takes_task):
        raise file.error(f"has {len(tokenisers)} steps '{_TOKENISER}' in 'policy_preprocessor.json', not one")
    keyed = _keyed(file, features)
    if tokenisers and _TASK in keyed:
        raise file.error(
            f"takes a text, which has the key '{_TASK}', as '{keyed[_TASK].source}' has; name the input of that "
            "observation under another key",
            "observations.keys",
        )
    return SavedLeRobot(config, keyed, int(outputs["action"]["shape"][0]), normalisers, next(iter(tokenisers), None))


def _keyed(file: PolicyFile, features: Sequence[Feature]) -> dict[str, Feature]:
    """Return the features by key of the observation: as configured, else the last part of their name."""
    given = {name: key for key, name in file.interface.inputs.items()}
    keyed = {given.get(feature.source, _default_key(feature.source)): feature for feature in features}
    if len(keyed) < len(features):
        names = [feature.source for feature in features]
        raise file.error(f"has features with the same last part {names}; name the input of each", "observations.keys")
    if unknown := given.keys() - {feature.source for feature in features}:
        names = [feature.source for feature in features]
        raise file.error(
            f"has no feature '{min(unknown)}', but {names}; correct it", f"observations.{given[min(unknown)]}.input"
        )
    return keyed


def _default_key(feature: str) -> str:
    return feature.removeprefix("observation.").removeprefix("images.").replace(".", "_")


def _read_json(file: PolicyFile, name: str) -> dict[str, Any]:
    try:
        found = json.loads(read_listed(file.path, file.content, name, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, PolicyError):
            raise
        raise file.error(f"is damaged: '{name}' is no JSON ({error}); copy or save it again") from error
    if not isinstance(found, dict):
        raise file.error(f"is damaged: '{name}' holds no object; copy or save it again")
    return found


def _steps(file: PolicyFile, name: str, supported: Sequence[str]) -> list[dict[str, Any]]:
    """Return the steps of a processor; raises PolicyError where one is not supported."""
    steps = _read_json(file, name)["steps"]
    for step in steps:
        found = step.get("registry_name", step.get("class"))
        if found not in supported:
            raise file.error(f"has the step '{found}' in '{name}'; supported are {', '.join(supported)}")
    return steps


def _normalisers(
    file: PolicyFile, steps: Sequence[Mapping[str, Any]], name: str, kinds: Mapping[str, str]
) -> dict[str, Normaliser]:
    """Return the normalisation of each feature that a step of this name normalises."""
    from safetensors.torch import load

    found: dict[str, Normaliser] = {}
    for step in steps:
        # Without statistics nothing is normalised.
        if step.get("registry_name") != name or not step.get("state_file"):
            continue
        config = step["config"]
        only = config.get("normalize_observation_keys")
        statistics = load(read_listed(file.path, file.content, str(step["state_file"]), MAX_JSON_BYTES))
        for feature, kind in kinds.items():
            mode = config["norm_map"].get(kind, "IDENTITY")
            parts = {
                key.rpartition(".")[2]: part for key, part in statistics.items() if key.rpartition(".")[0] == feature
            }
            if mode == "IDENTITY" or not parts or (only is not None and feature != "action" and feature not in only):
                continue
            if kind == "VISUAL":
                parts = {key: part.reshape(-1, 1, 1) if part.ndim == 1 else part for key, part in parts.items()}
            if mode not in _STATISTICS or not parts.keys() >= set(_STATISTICS[mode]):
                wanted = " and ".join(_STATISTICS.get(mode, ("another mode",)))
                raise file.error(
                    f"normalises '{feature}' as {mode}, for which its statistics {sorted(parts)} lack {wanted}"
                )
            found[feature] = Normaliser(mode, parts, float(config.get("eps", 1e-8)), name == "unnormalizer_processor")
    return found


class LeRobotPolicy(Policy):
    """A policy of LeRobot, which gives the actions of its whole horizon.

    Attributes
    ----------
    network
        LeRobot's own.
    modules
        It, and everything else that computes.
    takes_task
        Whether it takes a text.
    """

    interface_fields = ("low", "high")
    takes_task = False

    def __init__(self, saved: SavedLeRobot, file: PolicyFile) -> None:
        low, high = file.interface.low, file.interface.high
        try:
            action = ArraySpec("action", (saved.components,), np.float32, low, high)
        except ValueError as error:
            raise file.error(f"does not fit the bounds of the action: {error}; correct low and high") from error
        algorithm, horizon = saved.config["type"].upper(), self.horizon_of(saved)
        spec = PolicySpec(saved.observations(), action, algorithm, file.sha256, horizon=horizon, task=saved.task)
        super().__init__(spec, file.device)
        self.normalisation = "inside" if saved.normalisers else "none"
        self.network = _load_network(saved.config, file)
        self._inputs = saved.inputs
        self._normalisers = nn.ModuleDict(
            {_module_name(name): normaliser for name, normaliser in saved.normalisers.items()}
        )
        self._has_bounds = bool(np.isfinite(action.low).any() or np.isfinite(action.high).any())
        self._low, self._high = (torch.tensor(bound, device=file.device) for bound in (action.low, action.high))
        parts = [self.network, self._normalisers, *self._make_parts(saved, file)]
        self.modules: Sequence[nn.Module] = [part.to(file.device).eval().requires_grad_(False) for part in parts]

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions `[robots, horizon, components]` from checked arguments."""
        batch = self._batch(observations)
        images = [batch[feature.name] for feature in self._inputs.values() if feature.kind == "VISUAL"]
        actions = self._normalise("action", self._plan(batch, images))
        return (actions.clamp(self._low, self._high) if self._has_bounds else actions), memory

    def _batch(self, observations: Tensors) -> dict[str, torch.Tensor]:
        """Return the inputs of the network by its names."""
        batch = {}
        for key, feature in self._inputs.items():
            values = observations[key]
            if feature.kind == "VISUAL":
                values = values.to(torch.float32) / _PIXEL_MAX
            batch[feature.name] = self._normalise(feature.name, values)
        return batch

    def _normalise(self, name: str, values: torch.Tensor) -> torch.Tensor:
        name = _module_name(name)
        return self._normalisers[name](values) if name in self._normalisers else values

    @staticmethod
    @abstractmethod
    def horizon_of(saved: SavedLeRobot) -> int:
        """Return the number of actions in a plan."""

    def _make_parts(self, saved: SavedLeRobot, file: PolicyFile) -> Sequence[nn.Module]:
        """Make the modules beside the network and the normalisation."""
        return ()

    @abstractmethod
    def _plan(self, batch: dict[str, torch.Tensor], images: list[torch.Tensor]) -> torch.Tensor:
        """Compute normalised actions `[robots, horizon, components]` from normalised observations."""


def _module_name(feature: str) -> str:
    # Names of modules hold no dots.
    return feature.replace(".", "/")


def _load_network(config: Mapping[str, Any], file: PolicyFile) -> Any:
    """Make LeRobot's policy and load its weights."""
    import draccus
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class
    from safetensors.torch import load

    # The weights come from the folder, and the device is known.
    replaced: dict[str, Any] = {"pretrained_backbone_weights": None, "load_vlm_weights": False, "rtc_config": None}
    replaced |= {"device": file.device.type, "compile_model": False}
    given = {name: value for name, value in config.items() if name != "type"}
    given |= {name: value for name, value in replaced.items() if name in given}
    parsed = draccus.decode(PreTrainedConfig.get_choice_class(config["type"]), given)
    policy = get_policy_class(config["type"])(parsed)
    policy.load_state_dict(load(read_listed(file.path, file.content, "model.safetensors", MAX_POLICY_BYTES)))
    return policy


class ActPolicy(LeRobotPolicy, TorchPolicy):
    """ACT: a plan of `chunk_size` actions from the newest observation."""

    @staticmethod
    def horizon_of(saved: SavedLeRobot) -> int:
        """Return the number of actions in a plan."""
        return int(saved.config["chunk_size"])

    def _plan(self, batch: dict[str, torch.Tensor], images: list[torch.Tensor]) -> torch.Tensor:
        if images:
            batch[_IMAGES] = images  # type: ignore[assignment]
        return self.network.model(batch)[0]


class DiffusionPolicy(LeRobotPolicy, TorchPolicy):
    """Diffusion Policy: a plan from the newest observations and fixed noise, so that it is a function of them.

    The noise is drawn with the seed of the file, the same for all robots.
    """

    _denoise: _Denoising

    def __init__(self, saved: SavedLeRobot, file: PolicyFile) -> None:
        self._steps = saved.steps
        super().__init__(saved, file)

    @staticmethod
    def horizon_of(saved: SavedLeRobot) -> int:
        """Return the number of actions in a plan, without those that precede the newest observation."""
        return int(saved.config["horizon"]) - saved.steps + 1

    def _make_parts(self, saved: SavedLeRobot, file: PolicyFile) -> Sequence[nn.Module]:
        model = self.network.diffusion
        shape = (int(saved.config["horizon"]), saved.components)
        self._denoise = _Denoising(model.noise_scheduler, model.num_inference_steps, shape, file.seed)
        return [self._denoise]

    def _plan(self, batch: dict[str, torch.Tensor], images: list[torch.Tensor]) -> torch.Tensor:
        if images:
            # [robots, ..., cameras, channels, height, width]
            batch[_IMAGES] = torch.stack(images, dim=-4)
        names = [name for name in (_IMAGES, _STATE, _ENVIRONMENT) if name in batch]
        if self._steps == 1:
            batch |= {name: batch[name].unsqueeze(1) for name in names}
        condition = self.network.diffusion._prepare_global_conditioning(batch)
        return self._denoise(self.network.diffusion.unet, condition)[:, self._steps - 1 :]


class _Denoising(nn.Module):
    """The denoising loop of Diffusion Policy, as the schedulers DDPM and DDIM of diffusers have it.

    Parameters
    ----------
    shape
        `[horizon, components]`.
    """

    times: torch.Tensor
    factors: torch.Tensor
    first: torch.Tensor
    noise: torch.Tensor

    def __init__(self, scheduler: Any, rounds: int, shape: tuple[int, ...], seed: int) -> None:
        super().__init__()
        scheduler.set_timesteps(rounds)
        times = scheduler.timesteps.tolist()
        generator = torch.Generator().manual_seed(seed)
        config = scheduler.config
        self._limit = config.clip_sample_range if config.clip_sample else None
        self._gives_noise = config.prediction_type == "epsilon"
        is_ddim = type(scheduler).__name__ == "DDIMScheduler"
        rows = []
        for place, time in enumerate(times):
            after = time - config.num_train_timesteps // rounds if is_ddim else [*times, -1][place + 1]
            kept = scheduler.alphas_cumprod[time]
            last = scheduler.final_alpha_cumprod if is_ddim else scheduler.one
            rows.append(_factors(is_ddim, kept, scheduler.alphas_cumprod[after] if after >= 0 else last, time == 0))
        self.register_buffer("times", torch.tensor(times))
        self.register_buffer("factors", torch.stack(rows))
        self.register_buffer("first", torch.randn(shape, generator=generator))
        self.register_buffer("noise", torch.randn((len(times), *shape), generator=generator))

    def forward(self, network: Any, condition: torch.Tensor) -> torch.Tensor:
        """Return the actions `[robots, horizon, components]` for a condition `[robots, numbers]`."""
        actions = self.first.expand(condition.shape[0], *self.first.shape).clone()
        rounds = (self.times, self.factors, self.noise)
        if torch.compiler.is_exporting():
            # One loop in the file, where each round would be written.
            return self._scan(network, condition, actions, rounds)
        for time, factors, noise in zip(*rounds, strict=True):
            actions = self._round(network, condition, actions, time, factors, noise)
        return actions

    def _scan(
        self, network: Any, condition: torch.Tensor, actions: torch.Tensor, rounds: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        from torch._higher_order_ops.scan import scan

        def step(actions: torch.Tensor, round: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            following = self._round(network, condition, actions, *round)
            # Some result of each round is obligatory.
            return following, following[:, 0, 0].clone()

        return scan(step, actions, rounds)[0]

    def _round(
        self,
        network: Any,
        condition: torch.Tensor,
        actions: torch.Tensor,
        time: torch.Tensor,
        factors: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        root_kept, root_lost, of_clean, of_actions, of_noise, of_drawn = factors.unbind()
        found = network(actions, time.expand(actions.shape[0]), global_cond=condition)
        clean = (actions - root_lost * found) / root_kept if self._gives_noise else found
        inherent = found if self._gives_noise else (actions - root_kept * clean) / root_lost
        if self._limit is not None:
            clean = clean.clamp(-self._limit, self._limit)
        return of_clean * clean + of_actions * actions + of_noise * inherent + of_drawn * noise


def _factors(is_ddim: bool, kept: torch.Tensor, after: torch.Tensor, is_last: bool) -> torch.Tensor:
    """Return the factors of one round, see `_Denoising._round`; `kept` and `after` are cumulated alphas."""
    lost, zero = 1 - kept, torch.zeros(())
    if is_ddim:
        return torch.stack([kept**0.5, lost**0.5, after**0.5, zero, (1 - after) ** 0.5, zero])
    alpha = kept / after
    variance = torch.clamp((1 - after) / lost * (1 - alpha), min=1e-20)
    drawn = zero if is_last else variance**0.5
    return torch.stack(
        [kept**0.5, lost**0.5, after**0.5 * (1 - alpha) / lost, alpha**0.5 * (1 - after) / lost, zero, drawn]
    )


class SmolVlaPolicy(LeRobotPolicy):
    """SmolVLA: a plan of `chunk_size` actions from the newest observation, a text, and fixed noise.

    The noise is drawn with the seed of the file, the same for all robots. The tokeniser works outside of PyTorch, so
    that the policy cannot be exported.
    """

    takes_task = True
    _noise: torch.Tensor

    @staticmethod
    def horizon_of(saved: SavedLeRobot) -> int:
        """Return the number of actions in a plan."""
        return int(saved.config["chunk_size"])

    def _make_parts(self, saved: SavedLeRobot, file: PolicyFile) -> Sequence[nn.Module]:
        from transformers import AutoTokenizer

        assert saved.tokeniser is not None
        self._options = {
            name: saved.tokeniser[name] for name in ("max_length", "truncation", "padding", "padding_side")
        }
        self._tokeniser = AutoTokenizer.from_pretrained(saved.tokeniser["tokenizer_name"])
        shape = (int(saved.config["chunk_size"]), int(saved.config["max_action_dim"]))
        self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(file.seed)).to(file.device)
        return ()

    def _batch(self, observations: Tensors) -> dict[str, torch.Tensor]:
        texts = decode_tasks(observations[_TASK].cpu().numpy())
        # The step before that of the tokeniser.
        ended = [text if text.endswith("\n") else f"{text}\n" for text in texts]
        tokens = self._tokeniser(ended, return_tensors="pt", **self._options)
        return super()._batch(observations) | {
            _TOKENS: tokens["input_ids"].to(self.device),
            _TOKEN_MASK: tokens["attention_mask"].bool().to(self.device),
        }

    def _plan(self, batch: dict[str, torch.Tensor], images: list[torch.Tensor]) -> torch.Tensor:
        noise = self._noise.expand(len(batch[_TOKENS]), *self._noise.shape)
        return self.network.predict_action_chunk(batch, noise=noise)


_KINDS: Mapping[str, type[LeRobotPolicy]] = {
    "act": ActPolicy,
    "diffusion": DiffusionPolicy,
    "smolvla": SmolVlaPolicy,
}


def _extra(config: Mapping[str, Any]) -> str:
    """Return the extra of LeRobot that a policy needs."""
    return "smolvla" if config["type"] == "smolvla" else "diffusion"


def inspect_lerobot(file: PolicyFile) -> dict[str, Any]:
    """Describe a folder as JSON, also where LeRobot is not installed."""
    saved = read_lerobot(file)
    action = ArraySpec("action", (saved.components,), np.float32, file.interface.low, file.interface.high)
    horizon = _KINDS[saved.config["type"]].horizon_of(saved)
    algorithm = saved.config["type"].upper()
    spec = PolicySpec(saved.observations(), action, algorithm, file.sha256, horizon=horizon, task=saved.task)
    return {
        **spec_to_json(spec),
        "bytes": sum((Path(file.path) / name).stat().st_size for name in listed(file.content)),
        "normalisation": "inside" if saved.normalisers else "none",
        "packages": {"diffusion": ["diffusers"], "smolvla": ["transformers"]}.get(saved.config["type"], []),
    }

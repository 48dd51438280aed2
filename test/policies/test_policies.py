# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of Stable-Baselines3 on tensors: the same actions as ``model.predict``, and errors that help."""

import base64
import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from policy_conformance import PolicyConformance, assert_same_actions, load_trusted
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from policy_node.config.specs import DiscreteSpec
from policy_node.policies import Policy, PolicyError
from policy_node_bench.harness.untrained import SpacesOnly

ROBOTS = 7


class DropoutExtractor(BaseFeaturesExtractor):
    """Behaves differently in training, so it shows a forgotten evaluation mode."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=16)
        self.layers = nn.Sequential(nn.Linear(observation_space.shape[0], 16), nn.BatchNorm1d(16), nn.Dropout(0.5))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


class InPlaceExtractor(BaseFeaturesExtractor):
    """Works in place, so it shows observations that the policy handed on instead of copying."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=observation_space.shape[0])

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations.mul_(0.5)


class GatedExtractor(nn.Module):
    """Replaces the policy's hidden layers."""

    latent_dim_pi = 8
    latent_dim_vf = 8

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gate = nn.Linear(features, 8)
        self.value = nn.Linear(features, 8)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.gate(features)) * self.value(features)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return self.value(features)


class GatedPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = GatedExtractor(self.features_dim)


def box(shape: tuple[int, ...], low: Any = -1.0, high: Any = 1.0, dtype: type = np.float32) -> spaces.Box:
    return spaces.Box(
        np.broadcast_to(low, shape).astype(dtype), np.broadcast_to(high, shape).astype(dtype), dtype=dtype
    )


def image(*shape: int) -> spaces.Box:
    return box(shape, 0, 255, np.uint8)


VECTOR = box((6,), -3.0, 3.0)
DRIVE = box((2,), [-0.3, -1.0], [0.7, 1.5])
RGB = image(36, 40, 3)
TOUCH_AND_IMAGE = spaces.Dict({"touch": box((4,), 0.0, np.inf), "image": RGB})
GSDE = {"use_sde": True, "policy_kwargs": {"squash_output": True}}

# Name: policy, observation space of the environment, action space, further arguments of PPO.
CASES: dict[str, tuple[Any, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "vector": ("MlpPolicy", VECTOR, DRIVE, {}),
    "vector-relu-layers": (
        "MlpPolicy",
        VECTOR,
        DRIVE,
        {"policy_kwargs": {"net_arch": {"pi": [24, 8], "vf": [16]}, "activation_fn": nn.ReLU}},
    ),
    "vector-no-hidden-layer": ("MlpPolicy", VECTOR, DRIVE, {"policy_kwargs": {"net_arch": []}}),
    "vector-float64": ("MlpPolicy", box((5,), dtype=np.float64), box((3,), -2.0, [1.0, 1 / 3, 9.0], np.float64), {}),
    "vector-uint8": ("MlpPolicy", box((5,), 0, 255, np.uint8), DRIVE, {}),
    "matrix": ("MlpPolicy", box((2, 3)), box((2, 4), [[-1.0], [-0.2]], [0.5, 0.6, 0.7, 0.8]), {}),
    "vector-discrete": ("MlpPolicy", VECTOR, spaces.Discrete(5), {}),
    "vector-discrete-from-3": ("MlpPolicy", VECTOR, spaces.Discrete(4, start=3), {}),
    "vector-gsde": ("MlpPolicy", VECTOR, DRIVE, {"use_sde": True}),
    "vector-gsde-squashed": ("MlpPolicy", VECTOR, DRIVE, GSDE),
    "vector-gsde-squashed-float64": ("MlpPolicy", VECTOR, box((2, 2), -1 / 3, [1.0, 7.0], np.float64), GSDE),
    "vector-dropout": ("MlpPolicy", VECTOR, DRIVE, {"policy_kwargs": {"features_extractor_class": DropoutExtractor}}),
    "vector-in-place": ("MlpPolicy", VECTOR, DRIVE, {"policy_kwargs": {"features_extractor_class": InPlaceExtractor}}),
    "vector-own-layers": (GatedPolicy, VECTOR, DRIVE, {}),
    "image-last": ("CnnPolicy", RGB, DRIVE, {}),
    "image-first": ("CnnPolicy", image(3, 36, 40), DRIVE, {}),
    "image-stacked-discrete": ("CnnPolicy", image(36, 36, 12), spaces.Discrete(3), {}),
    "image-separate": ("CnnPolicy", RGB, DRIVE, {"policy_kwargs": {"share_features_extractor": False}}),
    "image-unscaled": ("CnnPolicy", RGB, DRIVE, {"policy_kwargs": {"normalize_images": False}}),
    "image-float": ("CnnPolicy", box((3, 36, 40), 0.0, 1.0), DRIVE, {"policy_kwargs": {"normalize_images": False}}),
    "image-flat": ("MlpPolicy", image(8, 9, 3), DRIVE, {}),
    "image-flat-other-bounds": ("MlpPolicy", box((8, 9, 3), 0, 20, np.uint8), DRIVE, {}),
    "image-gsde-squashed": ("CnnPolicy", RGB, DRIVE, GSDE),
    "dict": ("MultiInputPolicy", TOUCH_AND_IMAGE, DRIVE, {}),
    "dict-discrete": ("MultiInputPolicy", TOUCH_AND_IMAGE, spaces.Discrete(4), {}),
    "dict-separate": (
        "MultiInputPolicy",
        TOUCH_AND_IMAGE,
        DRIVE,
        {"policy_kwargs": {"share_features_extractor": False}},
    ),
    "dict-unscaled": (
        "MultiInputPolicy",
        spaces.Dict({"touch": VECTOR, "image": box((3, 36, 36), 0.0, 1.0)}),
        DRIVE,
        {"policy_kwargs": {"normalize_images": False}},
    ),
    "dict-image-only": ("MultiInputPolicy", spaces.Dict({"image": RGB}), DRIVE, {}),
    "dict-two-images": ("MultiInputPolicy", spaces.Dict({"left": RGB, "right": image(36, 36, 1)}), DRIVE, {}),
    "dict-vectors": ("MultiInputPolicy", spaces.Dict({"pose": VECTOR, "grid": box((2, 3))}), DRIVE, GSDE),
}


def make_model(policy: Any, observation_space: spaces.Space, action_space: spaces.Space, **arguments: Any) -> PPO:
    """Build a model that was not trained, but whose actions differ from row to row and reach some bounds."""
    environment = SpacesOnly(observation_space, action_space)
    model = PPO(policy, environment, seed=1, device="cpu", n_steps=2, batch_size=2, **arguments)
    network = model.policy
    network.set_training_mode(False)
    rows, _ = network.obs_to_tensor(environment_rows(observation_space, ROBOTS))
    with torch.no_grad():
        features = BasePolicy.extract_features(network, rows, network.pi_features_extractor)
        # A fresh action layer gives nearly zero for everything.
        network.action_net.weight.div_(network.action_net(network.mlp_extractor.forward_actor(features)).std())
    return model


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the file of a case, made once."""
    folder = tmp_path_factory.mktemp("models")

    def make(case: str) -> Path:
        file = folder / f"{case}.zip"
        if not file.exists():
            policy, observation_space, action_space, arguments = CASES[case]
            make_model(policy, observation_space, action_space, **arguments).save(file)
        return file

    return make


def environment_rows(space: spaces.Space, robots: int) -> Any:
    """Draw observations of an environment, stacked over robots."""
    if isinstance(space, spaces.Dict):
        return {key: environment_rows(part, robots) for key, part in space.spaces.items()}
    space.seed(5)
    rows = np.stack([space.sample() for _ in range(robots)])
    if rows.ndim == 4:
        # Images of pure noise look alike to a convolution, unless their brightness differs.
        rows = (rows * np.linspace(0.1, 1.0, robots)[:, None, None, None]).astype(rows.dtype)
    return rows


def as_saved(array: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Give the environment's rows the layout of the saved space, as a view."""
    tensor = torch.from_numpy(array)
    return tensor if tensor.shape[1:] == shape else tensor.permute(0, 3, 1, 2)


@pytest.mark.parametrize("case", CASES)
def test_actions_are_those_of_predict(case: str, model_file: Callable[[str], Path]) -> None:
    file = model_file(case)
    model = PPO.load(file, device="cpu")
    policy = load_trusted(file)
    rows = environment_rows(CASES[case][1], ROBOTS)
    if isinstance(rows, dict):
        expected = [
            model.predict({key: rows[key][row] for key in rows}, deterministic=True)[0] for row in range(ROBOTS)
        ]
        specs = policy.spec.observations
        observations: Any = {key: as_saved(rows[key], specs[key].shape) for key in rows}
    else:
        expected = [model.predict(row, deterministic=True)[0] for row in rows]
        observations = as_saved(rows, policy.spec.observations["observation"].shape)
    actions, _ = policy(observations, policy.initial_state(ROBOTS))
    wanted = torch.from_numpy(np.stack(expected))
    assert_same_actions(policy, actions, wanted)
    # Guards the comparison itself: actions of a single value would agree with much.
    assert len(wanted.unique(dim=0)) > 1


class TestConformance(PolicyConformance):
    @pytest.fixture(
        params=["vector", "vector-in-place", "vector-discrete", "vector-gsde-squashed-float64", "image-last", "dict"]
    )
    def policy(self, request: pytest.FixtureRequest, model_file: Callable[[str], Path]) -> Policy:
        return load_trusted(model_file(request.param))


def test_spec_is_the_saved_one(model_file: Callable[[str], Path]) -> None:
    file = model_file("dict")
    spec = load_trusted(str(file)).spec
    assert {key: str(array) for key, array in spec.observations.items()} == {
        "image": "image: uint8 [3, 36, 40] in [0, 255]",
        "touch": "touch: float32 [4] in [0, inf]",
    }
    assert str(spec.action) == "action: float32 [2] from [-0.3, -1. ] to [0.7, 1.5]"
    assert spec.algorithm == "PPO"
    assert spec.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_trusted(model_file("vector-discrete-from-3")).spec.action == DiscreteSpec("action", 4)


def test_one_tensor_needs_one_key(model_file: Callable[[str], Path]) -> None:
    with pytest.raises(PolicyError, match=r"give \['image', 'touch'\]"):
        load_trusted(model_file("dict"))(torch.zeros(2, 4), None)


def test_robots_must_agree_between_keys(model_file: Callable[[str], Path]) -> None:
    policy = load_trusted(model_file("dict"))
    observations = {"image": torch.zeros(2, 3, 36, 40, dtype=torch.uint8), "touch": torch.zeros(3, 4)}
    with pytest.raises(PolicyError, match=r"'touch' is float32 \[3, 4\] on cpu; give float32 \[2, 4\] on cpu"):
        policy(observations, None)


def rewrite(file: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a model with a change to its description."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "data":
                saved = json.loads(content)
                change(saved)
                content = json.dumps(saved).encode()
            copy.writestr(name, content)
    return target


def break_entry(name: str, saved: dict[str, Any]) -> None:
    saved[name] = {":type:": "<class 'function'>", ":serialized:": "bm90IGEgcGlja2xl"}


def test_training_settings_are_not_unpickled(model_file: Callable[[str], Path], tmp_path: Path) -> None:
    def change(saved: dict[str, Any]) -> None:
        for name in ("lr_schedule", "clip_range", "learning_rate", "ep_info_buffer", "_last_obs", "another"):
            break_entry(name, saved)

    file = rewrite(model_file("vector"), tmp_path / "model.zip", change)
    actions, _ = load_trusted(file)(torch.zeros(2, 6), None)
    expected, _ = load_trusted(model_file("vector"))(torch.zeros(2, 6), None)
    assert torch.equal(actions, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\); give a \.zip file"),
        (b"weights: 1\n", r"is text \(it starts with b'weights:'\), not a \.zip file of Stable-Baselines3; give"),
        (b"\1\2\3\4", r"is no zip archive \(it starts with b'\\x01.*'\); give a \.zip file"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match=message) as caught:
        load_trusted(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"model\.zip' cannot be read: No such file or directory; give the path"):
        load_trusted(tmp_path / "model.zip")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory; give the path"):
        load_trusted(tmp_path, format="sb3")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.999])
def test_a_truncated_file_is_refused(share: float, model_file: Callable[[str], Path], tmp_path: Path) -> None:
    content = model_file("vector").read_bytes()
    file = tmp_path / "model.zip"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PolicyError, match=r"cut off or damaged after .* copy or save it again"):
        load_trusted(file)


def test_a_changed_byte_is_refused(model_file: Callable[[str], Path], tmp_path: Path) -> None:
    content = bytearray(model_file("vector").read_bytes())
    with zipfile.ZipFile(model_file("vector")) as archive:
        content[archive.getinfo("policy.pth").header_offset + 5000] ^= 1
    file = tmp_path / "model.zip"
    file.write_bytes(content)
    with pytest.raises(PolicyError, match="cut off or damaged"):
        load_trusted(file)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    for members in (
        {"readme.txt": "hello"},
        {"data": "[]", "policy.pth": ""},
        {"data": "{}", "policy.pth": ""},
        {"data": "[" * 99999},
    ):
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        with pytest.raises(PolicyError, match=r"is a zip archive, but not of Stable-Baselines3; give a \.zip file"):
            load_trusted(file)
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(PolicyError, match=r"not of Stable-Baselines3; .* by its content, it is a training checkpoint"):
        load_trusted(file, format="sb3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: {**parts, "observation_space": spaces.Discrete(4, start=1)}, r"'observation' of .* from 0"),
        (
            lambda parts: {**parts, "observation_space": spaces.Dict({"gear": spaces.Discrete(4, start=1)})},
            r"'gear' of .* is Discrete\(4, start=1\); supported are Box",
        ),
        (
            lambda parts: {**parts, "observation_space": spaces.Tuple([VECTOR])},
            r"'observation_space' in .* found gymnasium\.spaces\.tuple\.Tuple; allowed are Box",
        ),
        (lambda parts: {**parts, "action_space": box((2,), 0, 9, np.int32)}, r"the action of .* supported are Box of"),
        (lambda parts: {**parts, "action_space": spaces.MultiBinary([2, 3])}, r"the action of .* is MultiBinary"),
        (lambda parts: {**parts, "policy_class": int}, r"the policy class of .* is <class 'int'>; supported are"),
    ],
)
def test_other_spaces_and_classes_are_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
    model_file: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    def replace(saved: dict[str, Any]) -> None:
        for name, value in change({}).items():
            saved[name] = {":type:": "", ":serialized:": base64.b64encode(pickle.dumps(value)).decode()}

    with pytest.raises(PolicyError, match=message):
        load_trusted(rewrite(model_file("vector"), tmp_path / "model.zip", replace))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            partial(break_entry, "action_space"),
            r"'action_space' in policy file .* cannot be read \(UnpicklingError",
        ),
        (lambda saved: saved.pop("use_sde"), "'use_sde' in policy file .* cannot be restored"),
        (
            lambda saved: saved.update(policy_kwargs=[]),
            r"'policy_kwargs' in policy file .* is a list, allowed is a dict",
        ),
        (lambda saved: saved["policy_kwargs"].update(layers=3), r"cannot be built \(TypeError.*layers"),
        (lambda saved: saved["policy_kwargs"].update(net_arch=[8]), r"cannot be built \(RuntimeError.*size mismatch"),
    ],
    ids=["pickle", "missing", "arguments", "argument", "weights"],
)
def test_a_description_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, model_file: Callable[[str], Path], tmp_path: Path
) -> None:
    file = rewrite(model_file("vector"), tmp_path / "model.zip", change)
    with pytest.raises(PolicyError, match=f"(?s){message}"):
        load_trusted(file)


@pytest.mark.parametrize("device", ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "CUDA"])
def test_unknown_devices_are_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=f"device is '{device}'; allowed are 'auto', 'cpu', 'cuda' and 'cuda:<index>'"
    ):
        load_trusted(tmp_path / "model.zip", device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows the error of a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cuda_is_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=f"device is '{device}', but PyTorch .* use device 'cpu' or 'auto'"):
        load_trusted(tmp_path / "model.zip", device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("case", CASES)
def test_cuda_gives_the_actions_of_the_cpu(case: str, model_file: Callable[[str], Path]) -> None:
    on_cpu, on_cuda = load_trusted(model_file(case), "cpu"), load_trusted(model_file(case), "cuda")
    rng = np.random.default_rng(1)
    rows = {key: torch.from_numpy(spec.example(ROBOTS, rng)) for key, spec in on_cpu.spec.observations.items()}
    expected, _ = on_cpu(rows, None)
    actions, _ = on_cuda({key: tensor.to(on_cuda.device) for key, tensor in rows.items()}, None)
    assert_same_actions(on_cpu, actions.cpu(), expected)


def test_auto_takes_cuda_where_there_is_one(model_file: Callable[[str], Path]) -> None:
    policy = load_trusted(model_file("vector"), "auto")
    assert policy.device.type == ("cuda" if torch.cuda.is_available() else "cpu")

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Files of Stable-Baselines3 that other versions of it, of gym, NumPy or Python wrote act as those of today."""

import base64
import io
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import parity_cases as cases
import pytest
import torch
from gymnasium import spaces
from parity_cases import Case
from policy_conformance import example_observations, load_trusted
from stable_baselines3.common.base_class import BaseAlgorithm

from policy_node.cli.export import export_policy
from policy_node.policies import PolicyError
from policy_node.policies.inert import Inert, InertUnpickler
from policy_node.policies.spaces import space_from_pickle
from policy_node.policies.vecnormalize import read_vecnormalize

Rewrite = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[BaseAlgorithm, Path]]:
    def make(case: Case, action: str = "Box") -> tuple[BaseAlgorithm, Path]:
        model = cases.make_model(case, cases.make_environments(case, action)[1])
        file = tmp_path_factory.mktemp("model") / "model.zip"
        model.save(file)
        return model, file

    return make


@pytest.fixture(scope="module")
def ppo(models: Any) -> tuple[BaseAlgorithm, Path]:
    return models(Case("PPO", "vector"))


def serialised(value: Any, content: bytes | None = None) -> dict[str, str]:
    """Return an entry as `model.save` writes it."""
    content = cloudpickle.dumps(value) if content is None else content
    return {":type:": "", ":serialized:": base64.b64encode(content).decode()}


def rewritten(file: Path, changes: dict[str, Any], members: dict[str, bytes] | None = None) -> Path:
    """Copy a model with other entries in its description, and other members."""
    target = file.with_name(f"changed_{len(list(file.parent.iterdir()))}.zip")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        whole = {name: source.read(name) for name in source.namelist()} | (members or {})
        whole["data"] = json.dumps({**json.loads(whole["data"]), **changes}).encode()
        for name, content in whole.items():
            copy.writestr(name, content)
    return target


def assert_same(file: Path, model: BaseAlgorithm) -> None:
    """Compare the actions of a file with those of a model."""
    policy = load_trusted(file)
    observations = example_observations(policy, 5, seed=2)
    given = {key: tensor.numpy() for key, tensor in observations.items()}
    is_dict = isinstance(model.observation_space, spaces.Dict)
    expected, _ = model.predict(given if is_dict else given["observation"], deterministic=True)
    found, _ = policy(observations, policy.initial_state(5))
    np.testing.assert_allclose(found.numpy(), expected.reshape(found.shape), rtol=0, atol=1e-5)


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """Return a function that makes a space of OpenAI gym with some state, which can be pickled in this test only."""
    made = {}
    for name in ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"):
        module = {"MultiDiscrete": "multi_discrete", "MultiBinary": "multi_binary"}.get(name, name.lower())
        made[name] = type(name, (), {"__module__": f"gym.spaces.{module}"})
        holder = types.ModuleType(f"gym.spaces.{module}")
        setattr(holder, name, made[name])
        monkeypatch.setitem(sys.modules, holder.__name__, holder)
    for package in ("gym", "gym.spaces"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    sys.modules["gym"].__version__ = "0.21.0"  # type: ignore[attr-defined]

    def make(name: str, state: dict[str, Any]) -> Any:
        space = made[name]()
        space.__dict__.update(state)
        return space

    yield make


LOW, HIGH = np.array([-1.0, -np.inf], np.float32), np.array([2.0, np.inf], np.float32)
BOX = spaces.Box(LOW, HIGH)
BOUNDED = {"bounded_below": LOW > -np.inf, "bounded_above": HIGH < np.inf}
DTYPE = np.dtype(np.float32)
INT = np.dtype(np.int64)
# Class, state, and the space of Gymnasium.
STATES: list[tuple[str, dict[str, Any], spaces.Space]] = [
    ("Box", {"dtype": DTYPE, "shape": (2,), "low": LOW, "high": HIGH, **BOUNDED, "_np_random": None}, BOX),
    ("Box", {"dtype": DTYPE, "_shape": (2,), "low": LOW, "high": HIGH, "np_random": np.random.RandomState(1)}, BOX),
    ("Box", {"dtype": np.float32, "low": LOW, "high": HIGH, "_np_random": np.random.default_rng(1)}, BOX),
    (
        "Box",
        {"dtype": DTYPE, "_shape": (2,), "low": LOW, "high": HIGH, "low_repr": "-1", "high_repr": "2"},
        BOX,
    ),
    (
        "Box",
        {"dtype": np.dtype(np.uint8), "shape": (4, 5, 3), "low": np.zeros((4, 5, 3), "u1"), "high": np.uint8(255)},
        spaces.Box(0, 255, (4, 5, 3), np.uint8),
    ),
    ("Discrete", {"n": 4, "shape": (), "dtype": INT, "_np_random": np.random.RandomState(3)}, spaces.Discrete(4)),
    ("Discrete", {"n": np.int64(4), "start": 2, "_shape": (), "dtype": INT}, spaces.Discrete(4, start=2)),
    ("MultiDiscrete", {"nvec": np.array([3, 2], np.uint32), "_shape": (2,)}, spaces.MultiDiscrete([3, 2])),
    ("MultiBinary", {"n": 3, "shape": (3,), "dtype": np.dtype(np.int8)}, spaces.MultiBinary(3)),
    ("MultiBinary", {"n": (2, 3), "_shape": (2, 3)}, spaces.MultiBinary((2, 3))),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("name", "state", "expected"), STATES, ids=lambda value: value if type(value) is str else "")
def test_spaces_of_gym_are_read_without_it(
    gym: Any, monkeypatch: pytest.MonkeyPatch, name: str, state: dict[str, Any], expected: spaces.Space, protocol: int
) -> None:
    content = pickle.dumps(gym(name, state), protocol)
    with monkeypatch.context() as without:
        for module in [name for name in sys.modules if name.split(".")[0] == "gym"]:
            without.setitem(sys.modules, module, None)
        found = space_from_pickle(content)
    assert found == expected and found.dtype == expected.dtype
    # Also where another package calls itself gym.
    assert space_from_pickle(content) == expected


def test_a_dict_of_gym_keeps_the_order_of_its_keys(gym: Any) -> None:
    parts = OrderedDict((key, gym("Discrete", {"n": n, "shape": ()})) for key, n in (("z", 2), ("a", 3)))
    found = space_from_pickle(pickle.dumps(gym("Dict", {"spaces": parts, "shape": None, "dtype": None})))
    assert list(found.spaces.items()) == [("z", spaces.Discrete(2)), ("a", spaces.Discrete(3))]


@pytest.mark.parametrize("space", [*cases.OBSERVATIONS.values(), *cases.ACTIONS.values()])
def test_spaces_of_gymnasium_stay_what_they_are(space: spaces.Space) -> None:
    space.seed(1)
    for protocol in (2, 5):
        found = space_from_pickle(pickle.dumps(space, protocol))
        assert found == space and found.dtype == space.dtype
        if isinstance(space, spaces.Dict):
            assert list(found) == list(space)


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_spaces_are_read_whichever_numpy_wrote_them(package: bytes) -> None:
    for space in (BOX, spaces.Discrete(np.int64(4), start=np.int64(1)), spaces.MultiDiscrete([3, 2])):
        space.seed(5)
        # Names end with a line in this protocol, so that they can be replaced.
        content = pickle.dumps(space, 2).replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", package)
        assert package in content and space_from_pickle(content) == space


def test_the_generators_of_numpy_2_are_dropped() -> None:
    # NumPy 2 names the class of the bits, NumPy 1 its name.
    class ByName:
        def __reduce__(self) -> Any:
            return getattr(np.random._pickle, "__bit_generator_ctor"), ("PCG64",), {"state": 1}

    for generator in (np.random.default_rng(2), ByName(), np.random.RandomState(2), np.random.SeedSequence(3)):
        found = InertUnpickler(pickle.dumps({"generator": generator}), ("numpy",)).load()
        assert isinstance(found["generator"], Inert)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (spaces.Text(3), "found gymnasium.spaces.text.Text; allowed are Box"),
        (spaces.Dict(a=spaces.Tuple([BOX])), "found gymnasium.spaces.tuple.Tuple; allowed are Box"),
        ([1, 2], "found list; allowed are Box"),
        (Path("here"), "it holds pathlib.*, which does not belong there"),
        (np.random.default_rng(0), "found numpy.random"),
    ],
)
def test_anything_else_is_no_space(ppo: tuple[BaseAlgorithm, Path], value: Any, problem: str) -> None:
    changed = rewritten(ppo[1], {"action_space": serialised(value, pickle.dumps(value))})
    with pytest.raises(PolicyError, match=rf"'action_space' in .* cannot be read .*{problem}.*save the model again"):
        load_trusted(changed)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickle.dumps(BOX)[:-9]])
def test_damaged_spaces_are_refused(ppo: tuple[BaseAlgorithm, Path], content: bytes) -> None:
    with pytest.raises(PolicyError, match=r"'observation_space' in policy file .* cannot be read"):
        load_trusted(rewritten(ppo[1], {"observation_space": serialised(None, content)}))


@pytest.mark.parametrize("state", [{"_shape": (2**40,), "low": np.float32(0)}, {"_shape": (3,), "low": LOW}, {}])
def test_impossible_spaces_are_refused(gym: Any, state: dict[str, Any]) -> None:
    content = pickle.dumps(gym("Box", {"dtype": DTYPE, "high": np.float32(1), **state}))
    with pytest.raises((ValueError, KeyError)):
        space_from_pickle(content)


@pytest.mark.parametrize("observation", ["vector", "image HWC", "Dict"])
def test_models_with_spaces_of_gym_act_as_before(models: Any, gym: Any, observation: str) -> None:
    model, file = models(Case("PPO", observation))

    def older(space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return gym("Dict", {"spaces": OrderedDict((key, older(part)) for key, part in space.spaces.items())})
        return gym("Box", {"dtype": space.dtype, "shape": space.shape, "low": space.low, "high": space.high})

    changes = {
        f"{name}_space": serialised(None, pickle.dumps(older(getattr(model, f"{name}_space"))))
        for name in ("observation", "action")
    }
    assert_same(rewritten(file, changes), model)


def test_linear_policies_of_ars_load_by_their_old_names(models: Any) -> None:
    model, file = models(Case("ARS", "vector", policy="LinearPolicy"))
    weights = model.policy.state_dict()
    assert "action_net.0.weight" in weights
    stream = io.BytesIO()
    torch.save({name.replace("action_net.0.", "action_net."): part for name, part in weights.items()}, stream)
    assert_same(rewritten(file, {}, {"policy.pth": stream.getvalue()}), model)


def test_a_seeded_model_loads(models: Any) -> None:
    model, file = models(Case("PPO", "vector", arguments={"seed": 0}))
    assert_same(file, model)


class Code37:
    """Is pickled as the code of a function in Python 3.7, which took other arguments."""

    def __reduce__(self) -> Any:
        return types.CodeType, (0, 0, 0, 67, b"d\x01S\x00", (None, 1), (), (), "<stdin>", "<lambda>", 1, b"", (), ())


class Lambda37:
    """Is pickled as a lambda of Python 3.7."""

    def __reduce__(self) -> Any:
        return cloudpickle.cloudpickle._make_function, (Code37(), {}, "<lambda>", None, None)


@pytest.mark.parametrize("function", [lambda *_: None, Lambda37()], ids=["code", "code of 3.7"])
@pytest.mark.parametrize("name", ["optimizer_class", "optimizer_kwargs"])
@pytest.mark.parametrize("system", [b"- OS: Linux\n- Python: 3.7.10\n", b""], ids=["3.7", "unknown"])
@pytest.mark.parametrize("maker", [b"_make_function", b"_make_skel_fun"])
def test_functions_that_only_training_needs_may_be_unreadable(
    ppo: tuple[BaseAlgorithm, Path], function: Any, name: str, system: bytes, maker: bytes
) -> None:
    model, file = ppo
    argument = function if name == "optimizer_class" else {"lr": [function]}
    # Other versions of cloudpickle have functions of other names.
    content = cloudpickle.dumps({"net_arch": [16, 8], name: argument}).replace(b"_make_function", maker)
    changed = rewritten(file, {"policy_kwargs": serialised(None, content)}, {"system_info.txt": system})
    assert_same(changed, model)


def test_classes_of_missing_packages_that_only_training_needs_are_left_out(
    ppo: tuple[BaseAlgorithm, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = ppo
    module = types.ModuleType("some_optimisers")
    module.Fast = type("Fast", (), {"__module__": "some_optimisers"})  # type: ignore[attr-defined]
    with monkeypatch.context() as installed:
        installed.setitem(sys.modules, "some_optimisers", module)
        content = pickle.dumps({"net_arch": [16, 8], "optimizer_class": module.Fast})  # type: ignore[attr-defined]
        needed = pickle.dumps({"net_arch": [16, 8], "activation_fn": module.Fast})  # type: ignore[attr-defined]
    assert_same(rewritten(file, {"policy_kwargs": serialised(None, content)}), model)
    with pytest.raises(
        PolicyError, match=r"argument 'activation_fn' .* it is some_optimisers.Fast; install the package"
    ):
        load_trusted(rewritten(file, {"policy_kwargs": serialised(None, needed)}))


@pytest.mark.parametrize("system", [b"- Python: 3.7.10\n", b"- Python: 4.1.0\n"])
def test_a_function_that_the_network_needs_is_named(ppo: tuple[BaseAlgorithm, Path], system: bytes) -> None:
    arguments = {"net_arch": [16, 8], "features_extractor_kwargs": {"make": [lambda: torch.nn.ReLU()]}}
    changed = rewritten(ppo[1], {"policy_kwargs": serialised(arguments)}, {"system_info.txt": system})
    with pytest.raises(PolicyError, match=r"argument 'features_extractor_kwargs.make\[0\]' in policy_kwargs .* Python"):
        load_trusted(changed)


def test_a_lambda_of_the_same_python_is_used(ppo: tuple[BaseAlgorithm, Path]) -> None:
    model, file = ppo
    python = f"- Python: {sys.version_info[0]}.{sys.version_info[1]}.0\n".encode()
    arguments = {"net_arch": [16, 8], "activation_fn": lambda: torch.nn.Tanh()}
    assert_same(rewritten(file, {"policy_kwargs": serialised(arguments)}, {"system_info.txt": python}), model)


def test_layers_of_versions_before_1_8_need_no_warning(ppo: tuple[BaseAlgorithm, Path]) -> None:
    model, file = ppo
    assert_same(rewritten(file, {"policy_kwargs": {"net_arch": [{"pi": [16, 8], "vf": [16, 8]}]}}), model)


@pytest.mark.parametrize(
    ("net_arch", "layers", "shared"),
    [
        ([9, {"pi": [8], "vf": [7]}], {"pi": [9, 8], "vf": [9, 7]}, 1),
        ([9, 8, {"vf": [7]}], {"pi": [9, 8], "vf": [9, 8, 7]}, 2),
        ([9, 8], {"pi": [9, 8], "vf": [9, 8]}, 2),
    ],
)
def test_layers_that_actor_and_critic_shared_are_kept(
    models: Any, tmp_path: Path, net_arch: Any, layers: dict[str, list[int]], shared: int
) -> None:
    model, file = models(Case("PPO", "vector", arguments={"policy_kwargs": {"net_arch": layers}}))
    # As before version 1.8: the first layers have one name, those behind them count from 0.
    weights = {}
    for name, part in model.policy.state_dict().items():
        root, _, rest = name.rpartition("_net.")
        if root in ("mlp_extractor.policy", "mlp_extractor.value"):
            layer = int(rest[0])
            name = (
                f"mlp_extractor.shared_net.{rest}"
                if layer < 2 * shared
                else f"{root}_net.{layer - 2 * shared}.{rest[2:]}"
            )
        # The actor's come first.
        weights.setdefault(name, part)
    assert any("shared" in name for name in weights)
    stream = io.BytesIO()
    torch.save(weights, stream)
    old = rewritten(
        file, {"policy_kwargs": {"net_arch": net_arch, "sde_net_arch": None}}, {"policy.pth": stream.getvalue()}
    )
    assert_same(old, model)
    export_policy(old, "bundle", tmp_path / "model.bundle")


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
def test_numbers_in_arguments_are_read_whichever_numpy_wrote_them(
    ppo: tuple[BaseAlgorithm, Path], package: bytes
) -> None:
    model, file = ppo
    content = pickle.dumps({"net_arch": [16, 8], "log_std_init": np.float64(0.5)}, 2)
    content = content.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", package)
    assert package in content
    assert_same(rewritten(file, {"policy_kwargs": serialised(None, content)}), model)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", [set, frozenset])
def test_statistics_of_version_1_0_normalise_all_keys(tmp_path: Path, protocol: int, kind: type) -> None:
    _, venv = cases.make_environments(Case("PPO", "Dict"), "Box")
    wrapped = cases.normalise(venv, every_key=True)
    file = tmp_path / "vecnormalize.pkl"
    wrapped.save(str(file))
    expected = read_vecnormalize(file)
    wrapped.obs_keys = kind(wrapped.obs_rms)
    del wrapped.norm_obs_keys
    file.write_bytes(pickle.dumps(wrapped, protocol))
    found = read_vecnormalize(file)
    assert set(found) == {"touch", "camera"} == set(expected)
    for key, part in expected.items():
        np.testing.assert_array_equal(found[key].mean, part.mean)
        np.testing.assert_array_equal(found[key].deviation, part.deviation)


class Call:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    "found",
    [
        Call(np.ndarray, (1,), "O", b"\1" * 8),
        Call(np.ndarray, (10**15,), "b"),
        Call(np.void, b"\1" * 8, [("a", "O")]),
        Call(np.void, 10**15),
        np.array([None]),
        np.zeros(1, [("a", np.float32)]),
    ],
    ids=["objects", "length", "fields", "bytes", "array of objects", "array of fields"],
)
def test_no_array_is_made_of_addresses_or_without_data(found: Any) -> None:
    try:
        made = InertUnpickler(pickle.dumps(found), ("numpy",)).load()
    except pickle.UnpicklingError as error:
        assert "allowed are numbers and texts" in str(error)
    else:
        assert isinstance(made, Inert)

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of other trainers: ONNX, TorchScript and torch.export, judged by the module that was exported."""

import dataclasses
import functools
import hashlib
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from policy_conformance import ROBOTS, PolicyConformance, example_observations, load_trusted
from torch import nn

from policy_node.config import files
from policy_node.config.schema import parse_configuration
from policy_node.config.specs import ArraySpec, DiscreteSpec
from policy_node.control.pairing import policy_interface
from policy_node.policies import Policy, PolicyError, PolicyInterface, load_policy
from policy_node.policies.formats import PolicyFile, format_of
from policy_node.policies.interface import parse_memory

STEPS = 4
DATA = Path(__file__).parents[1] / "data"
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "exported": ".pt2"}


class Walker(nn.Module):
    """A vector to a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.network(obs)


class Seer(nn.Module):
    """A uint8 image, channels last, and touch to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)
        self.choice = nn.Linear(4 * 9 * 7 + 2, 5)

    def forward(self, image: torch.Tensor, touch: torch.Tensor) -> torch.Tensor:
        seen = self.convolution(image.permute(0, 3, 1, 2).float() / 255.0).relu().flatten(1)
        return self.choice(torch.cat([seen, touch], dim=1))


class Rememberer(nn.Module):
    """A recurrent policy whose memory is `[layers, robots, units]`."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 8, num_layers=2)
        self.head = nn.Linear(8, 2)

    def forward(self, obs: torch.Tensor, h_in: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent, h_out = self.gru(obs[None], h_in)
        return self.head(latent[0]), h_out


class Attender(nn.Module):
    """A transformer over a padded history; the mask tells the steps that hold data."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.place = nn.Parameter(torch.randn(STEPS, 16))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 2)

    def forward(self, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # The newest step comes last and has the last place, however many there are.
        tokens = self.embed(history) + self.place[-history.shape[1] :]
        return self.head(self.encoder(tokens, src_key_padding_mask=~mask)[:, -1])


class Summer(nn.Module):
    """Takes packed sequences: the first `lengths` steps of the history."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(STEPS, 1))

    def forward(self, history: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        valid = torch.arange(history.shape[1], device=history.device)[None] < lengths[:, None]
        return (history * valid[..., None] * self.weights[: history.shape[1]]).sum(dim=1)


WALKER = PolicyInterface(low=-0.5, high=(0.5, 1.0, 2.0), shapes={"observation": (6,)})
SEER = PolicyInterface(
    inputs={"camera": "image", "bumper": "touch"},
    discrete=5,
    shapes={"camera": (20, 16, 3), "bumper": (2,)},
    dtypes={"camera": "uint8"},
)
REMEMBERER = PolicyInterface(
    inputs={"joints": "obs"},
    memory=(("h_in", "h_out"),),
    low=-1,
    high=1,
    shapes={"joints": (4,), "h_in": (2, -1, 8)},
)
ATTENDER = PolicyInterface(
    inputs={"history": "history"},
    mask="mask",
    history={"history": STEPS},
    low=-2,
    high=2,
    shapes={"history": (STEPS, 5)},
)
SUMMER = PolicyInterface(
    inputs={"history": "history"},
    lengths="lengths",
    padding="end",
    history={"history": STEPS},
    low=-9,
    high=9,
    shapes={"history": (STEPS, 3)},
)


def example_inputs(kind: type[nn.Module], rows: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        Walker: lambda: {"obs": torch.randn(rows, 6, generator=rng)},
        Seer: lambda: {
            "image": torch.randint(0, 255, (rows, 20, 16, 3), generator=rng, dtype=torch.uint8),
            "touch": torch.randn(rows, 2, generator=rng),
        },
        Rememberer: lambda: {"obs": torch.randn(rows, 4, generator=rng), "h_in": torch.zeros(2, rows, 8)},
        Attender: lambda: {
            "history": torch.randn(rows, STEPS, 5, generator=rng),
            "mask": torch.ones(rows, STEPS, dtype=torch.bool),
        },
        Summer: lambda: {
            "history": torch.randn(rows, STEPS, 3, generator=rng),
            "lengths": torch.full((rows,), STEPS),
        },
    }[kind]()


def save_script(module: nn.Module, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(file))


def make_module(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return kind().eval()


def export(kind: type[nn.Module], file_format: str, folder: Path, rows: int | None = None) -> Path:
    """Write a policy as its trainer would, for any number of robots or for `rows`."""
    module = make_module(kind)
    file = folder / f"{kind.__name__}{SUFFIXES[file_format]}"
    inputs = example_inputs(kind, rows or 3)
    axes = {name: 1 if name == "h_in" else 0 for name in inputs}
    names = {"output_names": ["actions", "h_out"][: 1 + (kind is Rememberer)], "input_names": list(inputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file_format == "torchscript":
            save_script(module, file)
            return file
        robots = torch.export.Dim("robots")
        shapes = None if rows else {name: {axis: robots} for name, axis in axes.items()}
        with torch.no_grad():
            program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
        if file_format == "exported":
            torch.export.save(program, file)
        else:
            torch.onnx.export(program, (), file, external_data=False, optimize=False, verbose=False, **names)
    return file


KINDS: dict[type[nn.Module], PolicyInterface] = {
    Walker: WALKER,
    Seer: SEER,
    Rememberer: REMEMBERER,
    Attender: ATTENDER,
    Summer: SUMMER,
}
FORMATS = list(SUFFIXES)
# The exporters of PyTorch take seconds.
EXPORTED_SLOWLY = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("exported", "onnx") else name for name in FORMATS
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports a policy, once for each kind, format and number of robots."""
    files: dict[tuple[Any, ...], Path] = {}

    def get(kind: type[nn.Module], file_format: str, rows: int | None = None) -> Path:
        key = (kind, file_format, rows)
        if key not in files:
            files[key] = export(kind, file_format, tmp_path_factory.mktemp("exported"), rows)
        return files[key]

    return get


def load(exported: Callable[..., Path], kind: type[nn.Module], file_format: str, device: str = "cpu") -> Policy:
    return load_once(exported(kind, file_format), kind, device)


@functools.cache
def load_once(file: Path, kind: type[nn.Module], device: str) -> Policy:
    return load_trusted(file, device=device, interface=KINDS[kind])


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in (Attender, Summer) else ()) for kind in KINDS]
)
@pytest.mark.parametrize("file_format", FORMATS)
class TestConformance(PolicyConformance):
    @pytest.fixture
    def policy(self, exported: Callable[..., Path], kind: type[nn.Module], file_format: str) -> Policy:
        return load(exported, kind, file_format)


class TestConformanceOfOpenedBatches(PolicyConformance):
    @pytest.fixture
    def policy(self, exported: Callable[..., Path]) -> Policy:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            policy = load_trusted(exported(Rememberer, "onnx", 1), interface=REMEMBERER)
        assert policy.how_it_runs == "one batch, opened"
        return policy


@pytest.mark.parametrize(("file_format", "rows"), [("exported", 1), ("exported", 2), ("onnx", 2)])
class TestConformanceOfFixedBatches(PolicyConformance):
    @pytest.fixture
    def policy(self, exported: Callable[..., Path], file_format: str, rows: int) -> Policy:
        file = exported(Rememberer, file_format, rows)
        message = "robot after robot" if rows == 1 else "2 robots at a time"
        with pytest.warns(UserWarning, match=rf"is run {message}: it was exported for a batch of {rows}; export it"):
            return load_trusted(file, interface=REMEMBERER)


@pytest.mark.parametrize("file_format", FORMATS)
def test_actions_are_those_of_the_module_within_the_bounds(exported, file_format):
    policy = load(exported, Walker, file_format)
    observations = 20 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        raw = make_module(Walker)(observations)
    low, high = torch.full((3,), -0.5), torch.tensor([0.5, 1.0, 2.0])
    assert bool((raw > high).any()) and bool((raw < low).any())
    actions, state = policy(observations, None)
    torch.testing.assert_close(actions, raw.clamp(low, high), rtol=0, atol=1e-5)
    assert state is None
    assert (
        policy.spec.algorithm == {"onnx": "ONNX", "torchscript": "TorchScript", "exported": "torch.export"}[file_format]
    )
    assert policy.spec.sha256 == hashlib.sha256(exported(Walker, file_format).read_bytes()).hexdigest()


@pytest.mark.parametrize("file_format", FORMATS)
def test_choices_are_the_largest_logit(exported, file_format):
    policy = load(exported, Seer, file_format)
    assert policy.spec.action == DiscreteSpec("action", 5)
    assert str(policy.spec.observations["camera"]) == "camera: uint8 [20, 16, 3] in [0, 255]"
    observations = example_observations(policy, 30, seed=1)
    with torch.no_grad():
        expected = make_module(Seer)(observations["camera"], observations["bumper"]).argmax(dim=1)
    assert len(expected.unique()) > 1
    assert torch.equal(policy(observations, None)[0], expected)


@pytest.mark.parametrize("file_format", FORMATS)
def test_memory_is_fed_back_robot_by_robot(exported, file_format):
    policy = load(exported, Rememberer, file_format)
    assert policy.spec.memory["h_in"].shape == (2, 8)
    module = make_module(Rememberer)
    state = policy.initial_state(2)
    # Each robot alone: the first is reset before step 3, the other never.
    memories = [torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)]
    for step in range(6):
        observations = torch.randn(2, 4)
        if step == 3:
            memories[0] = torch.zeros(2, 1, 8)
            state = policy.reset(state, torch.tensor([True, False]))
        actions, state = policy(observations, state)
        for row in range(2):
            with torch.no_grad():
                expected, memories[row] = module(observations[row, None], memories[row])
            torch.testing.assert_close(actions[row, None], expected.clamp(-1, 1), rtol=0, atol=1e-6)


def push(history: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
    return torch.cat([history[:, 1:], newest[:, None]], dim=1)


@pytest.mark.parametrize("file_format", EXPORTED_SLOWLY)
def test_robots_with_histories_of_different_length_get_what_the_unpadded_model_gives(exported, file_format):
    policy = load(exported, Attender, file_format)
    module = make_module(Attender)
    state = policy.initial_state(3)
    history, seen = torch.zeros(3, STEPS, 5), [[], [], []]
    for step in range(7):
        for row, reset_step in enumerate((2, 5, None)):
            if step == reset_step:
                state = policy.reset(state, torch.arange(3) == row)
                # What is left from before the reset must not matter, not even as NaN.
                history[row], seen[row] = torch.nan, []
        newest = torch.randn(3, 5)
        history = push(history, newest)
        actions, state = policy(history, state)
        for row in range(3):
            seen[row] = [*seen[row], newest[row]][-STEPS:]
            with torch.no_grad():
                unpadded = module(torch.stack(seen[row])[None], torch.ones(1, len(seen[row]), dtype=torch.bool))
            torch.testing.assert_close(actions[row, None], unpadded.clamp(-2, 2), rtol=0, atol=1e-5)
    assert state["steps_since_reset"].tolist() == [STEPS, 2, STEPS]


@pytest.mark.parametrize("file_format", EXPORTED_SLOWLY)
def test_padding_at_the_end_moves_the_data_to_the_front(exported, file_format):
    policy = load(exported, Summer, file_format)
    module = make_module(Summer)
    state = policy.reset(policy.initial_state(2), torch.tensor([True, False]))
    history, newest = torch.zeros(2, STEPS, 3), []
    for step in range(6):
        newest = [*newest, torch.randn(2, 3)][-STEPS:]
        history = push(history, newest[-1])
        actions, state = policy(history, state)
        with torch.no_grad():
            expected = module(torch.stack(newest, dim=1), torch.full((2,), min(step + 1, STEPS)))
        torch.testing.assert_close(actions, expected, rtol=0, atol=1e-5)


class InnerMemory(nn.Module):
    """A recurrent policy with its memory in buffers, for one robot, as Isaac Lab writes it."""

    hidden_state: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 8)
        self.head = nn.Linear(8, 2)
        self.register_buffer("hidden_state", torch.zeros(1, 1, 8))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        latent, hidden = self.rnn(obs.unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = hidden
        return self.head(latent.squeeze(0))


@pytest.fixture(scope="module", params=["torchscript", "exported"])
def inner_memory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    module = InnerMemory().eval()
    file = tmp_path_factory.mktemp("buffers") / f"policy{SUFFIXES[request.param]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if request.param == "torchscript":
            save_script(module, file)
        else:
            torch.export.save(torch.export.export(module, (torch.ones(1, 4),)), file)
    return file


class TestConformanceOfMemoryInBuffers(PolicyConformance):
    @pytest.fixture
    def policy(self, inner_memory: Path) -> Policy:
        interface = PolicyInterface(shapes={"observation": (4,)}, low=-1, high=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            policy = load_trusted(inner_memory, interface=interface)
        assert policy.how_it_runs.startswith("one batch" if inner_memory.suffix == ".pt" else "robot after robot")
        return policy

    def test_buffers_are_memory_of_each_robot(self, policy: Policy) -> None:
        assert policy.spec.memory["hidden_state"].shape == (1, 1, 8)
        torch.manual_seed(4)
        modules = [InnerMemory().eval()]
        modules.append(InnerMemory().eval())
        modules[1].load_state_dict(modules[0].state_dict())
        state = policy.initial_state(2)
        for _ in range(3):
            observations = torch.randn(2, 4)
            actions, state = policy(observations, state)
            with torch.no_grad():
                expected = torch.cat([module(observations[row, None]) for row, module in enumerate(modules)])
            torch.testing.assert_close(actions, expected.clamp(-1, 1), rtol=0, atol=1e-6)


def test_a_policy_of_tensorflow_acts_as_it_did_there():
    stored = np.load(DATA / "point_mass.npz")
    policy = load_policy(DATA / "point_mass.onnx", trusted=False, interface=PolicyInterface(low=-1, high=1))
    actions, _ = policy(torch.from_numpy(stored["observations"]), None)
    np.testing.assert_allclose(actions.numpy(), stored["actions"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("file_format", ["torchscript", "exported"])
def test_files_with_code_are_refused_unless_trusted(exported, file_format):
    with pytest.raises(PolicyError, match=r"can run code .* is not trusted; export it as ONNX, .* or set trusted"):
        load_policy(exported(Walker, file_format), trusted=False, interface=WALKER)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "spoil", [lambda data: data[: len(data) // 2], lambda data: b"PK" + bytes(50)], ids=["cut", "foreign"]
)
def test_a_damaged_file_is_refused(exported, tmp_path, file_format, spoil):
    file = tmp_path / f"policy{SUFFIXES[file_format]}"
    file.write_bytes(spoil(exported(Walker, file_format).read_bytes()))
    with pytest.raises(PolicyError, match="damaged"):
        load_trusted(file, interface=WALKER)


def test_the_format_may_be_named(exported, tmp_path):
    file = tmp_path / "policy.bin"
    file.write_bytes(exported(Walker, "onnx").read_bytes())
    assert load_trusted(file, format="onnx", interface=WALKER).spec.algorithm == "ONNX"
    with pytest.raises(
        PolicyError, match="the format is 'caffe'; allowed are 'auto', 'bundle', 'exported', 'lerobot', 'onnx'"
    ):
        load_trusted(file, format="caffe")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vecnormalize": "file.pkl"}, "takes no vecnormalize: export it with its normalisation inside"),
        ({"deterministic": False}, "acts as it was exported; use deterministic=True"),
        ({"sha256": "0" * 64}, "has the SHA-256 .*, but 0000"),
    ],
)
def test_arguments_of_other_formats_are_refused(exported, arguments, message):
    with pytest.raises(PolicyError, match=message):
        load_trusted(exported(Walker, "onnx"), interface=WALKER, **arguments)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Rememberer, {"memory": (("h", "h_out"),)}, r"it has no input 'h', but \['obs', 'h_in'\]; name one of these"),
        (Rememberer, {"memory": (("h_in", "h"),)}, r"it has no output 'h', but \['actions', 'h_out'\]"),
        (Rememberer, {"memory": (("h_in", "actions"),)}, r"output 'actions' is .* for \[2, 2, 8\] in"),
        (Rememberer, {"memory": (("obs", "h_out"),)}, "is used twice"),
        (Seer, {"inputs": {"touch": "image"}}, "are the same observation; name the input of each"),
        (Rememberer, {"action": "velocity"}, "it has no output 'velocity'"),
        (Rememberer, {"low": (-1, -1, -1)}, "the bounds do not fit policy file .* does not broadcast"),
        (Rememberer, {"discrete": 3}, r"its output 'actions' is \[2\] for 3 choices"),
        (Rememberer, {"history": {"joints": 3}}, r"'joints' is \[4\], not a history of 3 steps"),
        (Rememberer, {"history": {"sonar": 3}}, "it has no observation 'sonar'"),
        (Attender, {"history": {}}, "no observation is a history"),
        (Attender, {"history": {"history": 9}}, r"'history' is \[4, 5\], not a history of 9 steps"),
        (Attender, {"padding": "middle"}, "padding is 'middle'; allowed are 'start' and 'end'"),
        (Attender, {"discrete": -1}, "discrete is -1"),
        (Attender, {"history": {"a": 3, "b": 4}}, "which one input of lengths or mask cannot describe"),
    ],
)
def test_an_interface_that_does_not_fit_is_refused(exported, kind, changes, message):
    interface = {name: getattr(KINDS[kind], name) for name in KINDS[kind].__dataclass_fields__}
    if kind is Rememberer:
        interface["shapes"] = {}
    with pytest.raises(PolicyError, match=message):
        load_trusted(exported(kind, "onnx"), interface=PolicyInterface(**{**interface, **changes}))


class Dancer(nn.Module):
    """Tracks a motion: gives the row of the step beside the action."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)
        self.register_buffer("motion", torch.randn(7, 3))

    def forward(self, obs: torch.Tensor, time_step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(obs), self.motion[time_step.long().squeeze(-1).clamp_max(6)]


def test_a_further_output_is_kept_for_the_next_step(tmp_path):
    torch.manual_seed(5)
    module = Dancer().eval()
    save_script(module, tmp_path / "policy.pt")
    interface = PolicyInterface(
        inputs={"joints": "obs", "step": "time_step"},
        outputs=("joint_pos",),
        shapes={"joints": (5,), "step": (1,)},
    )
    policy = load_trusted(tmp_path / "policy.pt", interface=interface)
    assert policy.spec.memory["output.joint_pos"].shape == (3,)
    state = policy.initial_state(2)
    assert torch.equal(state["output.joint_pos"], module.motion[[0, 0]])
    actions, state = policy({"joints": torch.ones(2, 5), "step": torch.tensor([[3.0], [9.0]])}, state)
    assert torch.equal(state["output.joint_pos"], module.motion[[3, 6]])
    assert actions.shape == (2, 2)
    state = policy.reset(state, torch.tensor([True, False]))
    assert torch.equal(state["output.joint_pos"], module.motion[[0, 6]])


def test_a_further_output_that_is_not_there_is_refused(exported):
    with pytest.raises(PolicyError, match="it has no output 'joint_pos'"):
        load_trusted(exported(Walker, "onnx"), interface=PolicyInterface(outputs=("joint_pos",)))


@pytest.mark.parametrize("name", ["activation", "output_activation"])
def test_an_activation_for_a_whole_network_is_refused(exported, name):
    with pytest.raises(PolicyError, match=f"policy.{name} does not apply to an ONNX file"):
        load_trusted(exported(Walker, "onnx"), interface=dataclasses.replace(WALKER, **{name: "tanh"}))


def test_a_shape_that_the_file_contradicts_is_refused(exported):
    with pytest.raises(PolicyError, match=r"is given as \[7\], but the file takes \[\d+\]"):
        load_trusted(exported(Walker, "onnx"), interface=PolicyInterface(shapes={"observation": (7,)}))


@pytest.mark.parametrize("file_format", ["torchscript", "exported"])
def test_inputs_without_names_must_all_be_described(exported, file_format):
    with pytest.raises(PolicyError, match=r"takes 2 inputs, but 1 are described: \['observation'\]; describe them all"):
        load_trusted(exported(Rememberer, file_format), interface=PolicyInterface(shapes={"observation": (4,)}))


def test_torchscript_needs_shapes(exported):
    with pytest.raises(PolicyError, match="says no shapes, and that of 'observation' is not given"):
        load_trusted(exported(Walker, "torchscript"))
    with pytest.raises(PolicyError, match=r"cannot be run on example inputs \(mat1 and mat2 .*; correct the"):
        load_trusted(exported(Walker, "torchscript"), interface=PolicyInterface(shapes={"observation": (7,)}))


def test_rows_that_influence_each_other_are_run_one_by_one(tmp_path):
    class Mixer(nn.Module):
        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return obs - 0.5 * obs[:1]

    save_script(Mixer(), tmp_path / "policy.pt")
    with pytest.warns(UserWarning, match="is run robot after robot: robots influence each other"):
        policy = load_trusted(tmp_path / "policy.pt", interface=PolicyInterface(shapes={"observation": (3,)}))
    observations = torch.randn(4, 3)
    torch.testing.assert_close(policy(observations, None)[0], 0.5 * observations)


def test_a_policy_in_training_mode_is_refused(tmp_path):
    class Guesser(nn.Module):
        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return obs + torch.rand_like(obs)

    save_script(Guesser(), tmp_path / "policy.pt")
    with pytest.raises(PolicyError, match=r"the same observations give different actions; .* in evaluation mode"):
        load_trusted(tmp_path / "policy.pt", interface=PolicyInterface(shapes={"observation": (3,)}))


def test_one_number_and_lengths_as_float_are_taken(tmp_path):
    class Timer(nn.Module):
        def forward(self, history: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return (history.sum(dim=1) / lengths)[:, None]

    program = torch.export.export(
        Timer(), (torch.zeros(3, STEPS), torch.ones(3)), dynamic_shapes=({0: torch.export.Dim("robots")},) * 2
    )
    torch.export.save(program, tmp_path / "policy.pt2")
    interface = PolicyInterface(history={"observation": STEPS}, lengths="lengths")
    policy = load_trusted(tmp_path / "policy.pt2", interface=interface)
    state = policy.initial_state(2)
    for expected in ([2.0, 20.0], [3.0, 30.0]):
        history = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 40.0, 20.0]])
        actions, state = policy(history, state)
        assert actions.flatten().tolist() == expected


def linear_onnx(file: Path, output: str = "float", **axes: Any) -> Path:
    """Write `action = observation @ weights` by hand, with an action of some type."""
    kinds = {"float": TensorProto.FLOAT, "index": TensorProto.INT64, "double": TensorProto.DOUBLE}
    weights = numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["observation", "weights"], ["raw"])]
    if output == "index":
        nodes.append(helper.make_node("ArgMax", ["raw"], ["action"], axis=1, keepdims=0))
    else:
        nodes.append(helper.make_node("Cast", ["raw"], ["action"], to=kinds[output]))
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, axes.get("shape", ["robots", 3]))],
        [helper.make_tensor_value_info("action", kinds[output], None)],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file_format", FORMATS)
def test_cuda_gives_the_actions_of_the_cpu(exported, kind, file_format):
    if file_format == "onnx" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    policies = [load(exported, kind, file_format, device) for device in ("cpu", "cuda")]
    states = [policy.initial_state(ROBOTS) for policy in policies]
    for seed in range(3):
        for index, policy in enumerate(policies):
            observations = {
                key: tensor.to(policy.device) for key, tensor in example_observations(policies[0], ROBOTS, seed).items()
            }
            actions, states[index] = policy(observations, states[index])
            if index == 0:
                expected = actions
        assert actions.device.type == "cuda"
        torch.testing.assert_close(actions.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime has CUDA")
def test_onnx_on_a_gpu_says_what_to_install(exported):
    content = exported(Walker, "onnx").read_bytes()
    with pytest.raises(
        PolicyError, match=r"device is 'cuda:0', but onnxruntime .* install onnxruntime-gpu in its place"
    ):
        format_of("policy.onnx").load(PolicyFile(content, "policy.onnx", "", torch.device("cuda", 0), interface=WALKER))


def test_an_index_is_a_choice(tmp_path):
    file = linear_onnx(tmp_path / "policy.onnx", "index")
    with pytest.raises(PolicyError, match=r"is torch.int64, no continuous action; give discrete"):
        load_trusted(file)
    policy = load_trusted(file, interface=PolicyInterface(discrete=2))
    observations = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [torch.nan, 1.0, 0.0]])
    assert policy(observations, None)[0].tolist() == [0, 1, -1]


def test_double_actions_stay_double(tmp_path):
    policy = load_trusted(linear_onnx(tmp_path / "policy.onnx", "double"), interface=PolicyInterface(low=-1, high=1))
    assert isinstance(policy.spec.action, ArraySpec) and policy.spec.action.dtype == np.float64
    assert policy(torch.full((1, 3), 5.0), None)[0].dtype == torch.float64


def test_open_shapes_must_be_given(tmp_path):
    file = linear_onnx(tmp_path / "policy.onnx", shape=["robots", "features"])
    with pytest.raises(PolicyError, match=r"leaves the shape of observation 'observation' open: \['features'\]"):
        load_trusted(file)
    policy = load_trusted(file, interface=PolicyInterface(shapes={"observation": (3,)}))
    assert policy.spec.observations["observation"].shape == (3,)


def with_external_weights(folder: Path, location: str, weights: Path) -> Path:
    """Write an ONNX file whose weights lie at `location`."""
    model = onnx.load(linear_onnx(folder / "policy.onnx"))
    tensor = model.graph.initializer[0]
    weights.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(weights.stat().st_size))):
        tensor.external_data.add(key=key, value=value)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())
    return folder / "policy.onnx"


def test_weights_beside_an_onnx_file_are_read_and_hashed(tmp_path):
    file = with_external_weights(tmp_path, "policy.data", tmp_path / "policy.data")
    policy = load_policy(file, trusted=False)
    assert policy(torch.tensor([[1.0, 2.0, 3.0]]), None)[0].tolist() == [[1.0, 2.0]]
    (tmp_path / "policy.data").write_bytes(np.ones((3, 2), np.float32).tobytes())
    assert load_trusted(file).spec.sha256 != policy.spec.sha256
    with pytest.raises(PolicyError, match="has weights in other files, which its SHA-256 does not cover"):
        load_trusted(file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    (tmp_path / "policy.data").unlink()
    with pytest.raises(PolicyError, match=r"cannot be read from .*copy that file too"):
        load_trusted(file)


def test_weights_on_a_file_system_that_does_not_answer_are_given_up(tmp_path, monkeypatch):
    file = with_external_weights(tmp_path, "policy.data", tmp_path / "policy.data")
    answered = threading.Event()
    resolve = Path.resolve
    # No test can mount a server that is gone.
    monkeypatch.setattr(files, "STALL_S", 0.05)
    monkeypatch.setattr(Path, "resolve", lambda path: answered.wait() if path.suffix == ".data" else resolve(path))
    try:
        with pytest.raises(PolicyError, match=r"cannot be read from '.*policy\.data' \(its file system did not answer"):
            load_trusted(file)
    finally:
        answered.set()


@pytest.mark.parametrize("location", ["../secret", "{absolute}", "link/secret", "..\\secret"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    file = with_external_weights(folder, location.format(absolute=tmp_path / "secret"), tmp_path / "secret")
    with pytest.raises(PolicyError, match=r"is refused: its weights 'weights' lie in .*, outside of its folder"):
        load_trusted(file)


def test_compiled_engines_are_refused(tmp_path):
    node = helper.make_node("EPContext", ["observation"], ["action"], domain="com.microsoft", embed_mode=0)
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", 3]) for name in ("observation", "action")
    ]
    model = helper.make_model(helper.make_graph([node], "policy", value[:1], value[1:]))
    onnx.save(model, tmp_path / "policy.onnx")
    with pytest.raises(PolicyError, match=r"holds a compiled engine \(EPContext\)"):
        load_trusted(tmp_path / "policy.onnx")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h_in=h_out", ("h_in", "h_out", None)),
        ("h_in=h_out:1,-1,64", ("h_in", "h_out", (1, -1, 64))),
        ("args_0:0=Identity:0", ("args_0:0", "Identity", (0,))),
    ],
)
def test_memory_is_written_as_a_pair(text, expected):
    assert parse_memory(text) == expected


def test_memory_written_in_another_way_is_refused():
    with pytest.raises(PolicyError, match="the memory 'h' is not written as input=output"):
        parse_memory("h")


def documented(heading: str, language: str) -> str:
    """Return all blocks of a section of the documentation in that language."""
    text = (Path(__file__).parents[2] / "doc" / "policies.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    found = next(part for part in section if part.startswith(f"{heading}\n"))
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", found, re.MULTILINE | re.DOTALL))


def configured(heading: str) -> Any:
    """Return the configuration that a section shows, completed with what belongs to no policy."""
    complete = """
        control_rate_hz: 20.0
        robots: [robot]
        observations: {keys: [state], state: {topic: state, type: std_msgs/msg/Float64MultiArray}}
        synchronisation: {slop_s: 0.02, max_age_s: 0.2}
        action: {topic: cmd_vel, type: std_msgs/msg/Float64MultiArray, when_stale: silent}
    """
    return parse_configuration({**yaml.safe_load(complete), **yaml.safe_load(documented(heading, "yaml"))})


@pytest.mark.slow
def test_the_documented_exports_and_configurations_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for heading in ("ONNX", "torch.export", "Histories and attention"):
            exec(documented(heading, "python"), names)
    for heading in ("ONNX", "Histories and attention"):
        configuration = configured(heading)
        policy = load_trusted(configuration.policy.path, interface=policy_interface(configuration))
        actions, _ = policy(example_observations(policy, 3, seed=1), policy.initial_state(3))
        assert not actions.isnan().any()
    assert policy.spec.memory.keys() == {"steps_since_reset"}
    assert load_trusted("walker.pt2").spec.action.shape == (3,)

    scripted = configured("TorchScript")
    assert policy_interface(scripted).shapes == {"observation": (12,), "h_in": (2, -1, 64)}
    assert configured("TensorFlow").policy.path == (DATA / "point_mass.onnx").name

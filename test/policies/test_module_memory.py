# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Memory inside of TorchScript modules: kept for each robot, whatever holds it, or refused by its name."""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_conformance import PolicyConformance, load_trusted
from torch import nn

from policy_node.policies import Policy, PolicyError, PolicyInterface
from policy_node.policies.module_network import ModuleNetwork
from policy_node.policies.pairing import Port
from policy_node.policies.script_graph import branches_on_values, code_of, written_attributes

SIZE, UNITS = 3, 4


class Recurrent(nn.Module):
    """The layers of all modules below."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(SIZE, UNITS)
        self.head = nn.Linear(UNITS, 2)


class InBuffer(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, UNITS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.copy_(self.cell(x, self.h))
        return self.head(self.h)


class InTensor(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.h = torch.zeros(1, UNITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = self.cell(x, self.h)
        return self.head(self.h)


class InTuple(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.state: tuple[torch.Tensor, torch.Tensor] = (torch.zeros(1, UNITS), torch.zeros(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.cell(x, self.state[0])
        action = self.head(h) + 0.5 * self.state[1]
        self.state = (h, action)
        return action


class InOptional(Recurrent):
    h: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.h = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.h
        if h is None:
            h = torch.ones(x.shape[0], 4)
        h = self.cell(x, h)
        self.h = h
        return self.head(h)


class InList(Recurrent):
    past: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.past = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.past.append(x)
        if len(self.past) > 4:
            self.past.pop(0)
        return self.head(self.cell(torch.stack(self.past).sum(0)))


class InInt(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.t = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.t += 1
        return self.head(self.cell(x)) * float(self.t % 7)


class Late(Recurrent):
    """Changes its memory at every 50th call only, counted by a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, UNITS))
        self.register_buffer("n", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        if int(self.n.item()) % 50 == 0:
            self.h.copy_(self.cell(x, self.h))
        return self.head(self.h) + x[:, :2]


class Layers(nn.Module):
    """Memory `[layers, robots, units]`, with a method that clears it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(SIZE, UNITS, num_layers=2)
        self.head = nn.Linear(UNITS, 2)
        self.register_buffer("hidden_state", torch.zeros(2, 1, UNITS))
        self.register_buffer("cell_state", torch.zeros(2, 1, UNITS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.head(out.squeeze(0))

    @torch.jit.export
    def reset_memory(self) -> None:
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


class Inner(Recurrent):
    """Keeps its memory in a submodule, and rarely."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = InTensor()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls % 3 == 0:
            return self.inner(x)
        return self.head(self.cell(x))


KINDS = [InBuffer, InTensor, InTuple, InOptional, InList, InInt, Late, Layers, Inner]
TOGETHER = (InBuffer, InTensor, InTuple, Layers)
INTERFACE = PolicyInterface(shapes={"observation": (SIZE,)}, low=-5, high=5)


def save(module: nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(str(file))
    return file


def make(kind: Callable[[], nn.Module], file: Path) -> Path:
    torch.manual_seed(8)
    return save(kind(), file)


def load_quietly(file: Path, interface: PolicyInterface = INTERFACE) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_trusted(file, interface=interface)


def modules_alone(file: Path, robots: int) -> list[torch.jit.ScriptModule]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [torch.jit.load(str(file)).eval() for _ in range(robots)]


@pytest.fixture(scope="module")
def load_kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[nn.Module]], Policy]:
    """Return a function that loads each kind once."""
    return cache(lambda kind: load_quietly(make(kind, tmp_path_factory.mktemp("memory") / "policy.pt")))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in (InTuple, InList) else pytest.mark.slow) for kind in KINDS]
)
class TestConformance(PolicyConformance):
    @pytest.fixture
    def policy(self, load_kind: Callable[[type[nn.Module]], Policy], kind: type[nn.Module]) -> Policy:
        return load_kind(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_robot_acts_as_with_a_module_to_itself(tmp_path, kind):
    file = make(kind, tmp_path / "policy.pt")
    policy = load_quietly(file)
    modules, state = modules_alone(file, 3), policy.initial_state(3)
    for step in range(56):
        if step in (2, 30):
            # One robot begins again, so that the robots are not all at the same step.
            state = policy.reset(state, torch.tensor([False, True, False]))
            modules[1:2] = modules_alone(file, 1)
        observations = torch.randn(3, SIZE)
        actions, state = policy(observations, state)
        with torch.no_grad():
            expected = torch.cat([module(observations[row, None]) for row, module in enumerate(modules)])
        torch.testing.assert_close(actions, expected.clamp(-5, 5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_tensors_is_widened_for_one_batch(tmp_path, kind):
    file = make(kind, tmp_path / "policy.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy = load_trusted(file, interface=INTERFACE)
    said = [str(warning.message) for warning in caught if "is run robot after robot" in str(warning.message)]
    assert bool(said) == (kind not in TOGETHER)
    assert (policy.how_it_runs == "one batch, opened") == (kind in TOGETHER)


def test_memory_begins_as_the_reset_of_the_module_leaves_it(tmp_path):
    torch.manual_seed(8)
    module = Layers().eval()
    with torch.no_grad():
        module(torch.randn(1, SIZE))
    policy = load_quietly(save(module, tmp_path / "used.pt"))
    assert not any(part.any() for part in policy.initial_state(2).values())


class Growing(Recurrent):
    all: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.all = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.all.append(x)
        return self.head(self.cell(torch.stack(self.all).mean(0)))


class NeverSet(Recurrent):
    h: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.h = None
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 1000:
            self.h = x
        return self.head(self.cell(x))


class InDictionary(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, torch.Tensor] = {"h": torch.zeros(1, UNITS)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept["h"] = self.cell(x, self.kept["h"])
        return self.head(self.kept["h"])


class Lengthening(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.past = torch.zeros(0, SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.past = torch.cat([self.past, x])
        return self.head(self.cell(self.past.mean(0, keepdim=True)))


class Shared(Recurrent):
    """Two attributes are one tensor from the second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.zeros(1, UNITS)
        self.two = torch.zeros(1, UNITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.one.add_(x.sum())
        action = self.head(self.two)
        self.two = self.one
        return action


class TwoRobots(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(2, UNITS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.copy_(self.cell(x, self.h))
        return self.head(self.h)


def test_memory_for_two_robots_is_refused(tmp_path):
    with pytest.raises(
        PolicyError, match=r"cannot be run on example inputs .*size 1 doesn't match hidden0 batch size 2"
    ):
        load_quietly(make(TwoRobots, tmp_path / "policy.pt"))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Growing, "'all', which still grows after 61 example runs"),
        (NeverSet, "'h', which stays None"),
        (InDictionary, "'kept' of the type dict"),
        (Lengthening, "'past', whose shape changes"),
        (Shared, "'one', 'two': with copies it acts differently"),
    ],
)
def test_memory_that_cannot_be_kept_is_refused_by_its_name(tmp_path, kind, found):
    file = make(kind, tmp_path / "policy.pt")
    with pytest.raises(PolicyError, match=rf"cannot be kept for each robot: ({found}).*as input and output"):
        load_quietly(file)


def test_an_attribute_that_changes_its_layout_while_driving_is_named(tmp_path):
    class Forgetful(Recurrent):
        def __init__(self) -> None:
            super().__init__()
            self.past = [torch.zeros(1, SIZE)]
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls > 80:
                self.past.append(x)
            return self.head(self.cell(self.past[0]))

    policy = load_quietly(make(Forgetful, tmp_path / "policy.pt"))
    state = policy.initial_state(2)
    for _ in range(80):
        _, state = policy(torch.zeros(2, SIZE), state)
    with pytest.raises(PolicyError, match="the policy's attribute 'past' became list, unlike in the example runs"):
        policy(torch.zeros(2, SIZE), state)


def test_a_tensor_that_changes_undeclared_is_named():
    module = nn.Linear(SIZE, 2)
    calls = []

    def call(module: nn.Linear, inputs: list[torch.Tensor]) -> torch.Tensor:
        calls.append(inputs)
        if len(calls) == 3:
            module.bias += inputs[0].mean()
        return module(inputs[0])

    network = ModuleNetwork(module, call, [Port("x", None, None)], ["action"], watched=["weight", "bias"])
    with torch.inference_mode():
        for _ in range(2):
            network([torch.ones(1, SIZE)])
        for _ in range(2):
            with pytest.raises(PolicyError, match="changed its tensor 'bias', which is not known as memory"):
                network([torch.ones(1, SIZE)])


def test_code_shows_what_it_writes():
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(SIZE)
            self.register_buffer("view", torch.zeros(2, SIZE))
            self.register_buffer("read", torch.zeros(2, SIZE))
            self.pair = (torch.zeros(1), torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # A copy of an attribute may be changed.
            copied = self.read.clone()
            copied.zero_()
            self.view[0].unsqueeze(0).copy_(x)
            [self.pair[1]][0].add_(1)
            return self.norm(x) + copied[:1]

    module = torch.jit.script(Writer().eval())
    assert written_attributes(code_of(module)) == ["view", "pair"]
    assert branches_on_values(code_of(module)) == ""


def test_code_shows_what_it_writes_through_copies_of_lists_and_in_loops():
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("sliced", "copied", "joined", "reversed"):
                setattr(self, name, [torch.zeros(1), torch.zeros(1)])
            self.named = {"a": torch.zeros(1)}
            self.register_buffer("summed", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sliced[1:][0].add_(x)
            for part in list(self.copied):
                part.add_(x)
            (self.joined + [x])[0].add_(x)  # noqa: RUF005  another operation of TorchScript
            for _, part in self.named.items():
                part.add_(x)
            parts, summed = self.reversed, self.summed
            for index in range(2):
                parts[index].add_(x)
                parts = parts[::-1]
                summed = summed.add_(x)
            return summed * 1.0

    written = written_attributes(code_of(torch.jit.script(Writer().eval())))
    assert sorted(written) == ["copied", "joined", "named", "reversed", "sliced", "summed"]


def test_code_that_branches_on_numbers_takes_one_robot_at_a_time(tmp_path):
    class Brancher(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool(x.max() < 30) else torch.zeros_like(x)

    save(Brancher(), tmp_path / "policy.pt")
    with pytest.warns(UserWarning, match=r"robot after robot: its code reads numbers from tensors \(aten::Bool\)"):
        policy = load_trusted(tmp_path / "policy.pt", interface=PolicyInterface(shapes={"observation": (SIZE,)}))
    actions, _ = policy(torch.tensor([[1.0] * SIZE, [40.0] * SIZE]), None)
    assert actions.tolist() == [[1.0] * SIZE, [0.0] * SIZE]


class OneRobotShapes(nn.Module):
    """Was written for one robot, and prints."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, UNITS)
        self.register_buffer("h", torch.zeros(1, 1, UNITS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print(x)
        seen = x.view([1, 3, 2])[:, 1]
        latent, h = self.rnn(seen.view([2])[None] if seen.dim() == 1 else seen[None], self.h)
        self.h[:] = h
        return x.view([6]).view([1, 6])[:, :2] + latent[0, :, :2]


def test_constant_shapes_for_one_robot_are_opened(tmp_path, capfd):
    file = make(OneRobotShapes, tmp_path / "policy.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = load_trusted(file, interface=PolicyInterface(shapes={"observation": (6,)}))
    assert policy.how_it_runs == "one batch, opened"
    modules, state = modules_alone(file, 3), policy.initial_state(3)
    for _ in range(3):
        observations = torch.randn(3, 6)
        actions, state = policy(observations, state)
        assert capfd.readouterr().out == ""
        with torch.no_grad():
            expected = torch.cat([module(observations[row, None]) for row, module in enumerate(modules)])
        assert capfd.readouterr().out != ""
        torch.testing.assert_close(actions, expected, rtol=0, atol=1e-6)


class Nested(nn.Module):
    """Takes and gives nested tuples and dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTMCell(SIZE + 1, UNITS)
        self.head = nn.Linear(UNITS, 2)

    def forward(
        self, seen: dict[str, torch.Tensor], state: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        command, hc = state
        h, c = self.rnn(torch.cat([seen["joints"], seen["height"]], 1), hc)
        return {"other": h, "action": self.head(h) + command}, (h, c)


def test_nested_inputs_and_outputs_are_taken_in_order(tmp_path):
    torch.manual_seed(9)
    module = Nested().eval()
    save(module, tmp_path / "policy.pt")
    interface = PolicyInterface(
        inputs={"q": "joints", "z": "height", "command": "command"},
        memory=(("h", "h_out"), ("c", "c_out")),
        outputs=(),
        shapes={"q": (SIZE,), "z": (1,), "command": (2,), "h": (UNITS,), "c": (UNITS,)},
    )
    policy = load_trusted(tmp_path / "policy.pt", interface=interface)
    state = policy.initial_state(2)
    h = c = torch.zeros(2, UNITS)
    for _ in range(3):
        q, z, command = torch.randn(2, SIZE), torch.randn(2, 1), torch.randn(2, 2)
        actions, state = policy({"q": q, "z": z, "command": command}, state)
        with torch.no_grad():
            expected, (h, c) = module({"joints": q, "height": z}, (command, (h, c)))
        torch.testing.assert_close(actions, expected["action"], rtol=0, atol=1e-6)


class Kept(NamedTuple):
    """How a module keeps something: its value at first, and the code that changes and uses it."""

    first: Any
    change: str
    use: str


KEPT = {
    "buffer": Kept(None, "self.buffer.mul_(0.5).add_(x)", "total = total + self.buffer"),
    "tensor": Kept(torch.zeros(1, 2), "self.tensor = 0.9 * self.tensor + x", "total = total - self.tensor"),
    "pair": Kept(
        (torch.zeros(1, 2), torch.zeros(2)),
        "self.pair = (self.pair[0] + x, x[0])",
        "total = total + 0.1 * self.pair[0] + self.pair[1]",
    ),
    "maybe": Kept(
        torch.jit.Attribute(None, Optional[torch.Tensor]),  # noqa: UP045  TorchScript
        "self.maybe = x if self.maybe is None else torch.neg(x)",
        "maybe = self.maybe\n    if maybe is not None:\n        total = total + maybe",
    ),
    "past": Kept(
        torch.jit.Attribute([torch.zeros(1, 2)], list[torch.Tensor]),
        "self.past.append(x)\n        self.past = self.past[-3:]",
        "total = total + torch.stack(self.past).sum(0)",
    ),
    "count": Kept(0, "self.count += int(x[0, 0] > 0)", "total = total + float(self.count % 5)"),
    "gate": Kept(
        torch.zeros(1, 1),
        "self.gate = self.gate + 1.0",
        "total = total + torch.where(self.gate % 19 == 0, x.mean(0, keepdim=True), x)",
    ),
    "clock": Kept(0, "self.clock += 1", "total = total + float(self.clock % 5)"),
    "mean": Kept(0.0, "self.mean = 0.5 * self.mean + float(x[0, 1])", "total = total * (1.0 + self.mean)"),
    "grown": Kept(
        torch.jit.Attribute([], list[torch.Tensor]), "self.grown.append(x)", "total = total + len(self.grown)"
    ),
    "named": Kept(
        torch.jit.Attribute({"h": torch.zeros(1, 2)}, dict[str, torch.Tensor]),
        'self.named["h"] = x',
        'total = total + self.named["h"]',
    ),
}
# What a module may do beside: nothing, branch on a number, or mix the rows of a batch.
BESIDE = [
    "total = total * 2.0",
    "if bool(total.sum() > 1.0):\n        total = total * 0.5",
    "total = total - total.mean(0)",
]


# Each example is compiled, which takes a third of a second.
@settings(max_examples=max(10, settings().max_examples // 10))
@given(
    kept=st.lists(st.sampled_from(sorted(KEPT)), min_size=1, max_size=3, unique=True),
    every=st.sampled_from([1, 1, 2, 7, 33]),
    beside=st.sampled_from(BESIDE),
    seed=st.integers(0, 1000),
)
def test_robots_never_act_by_what_others_observed(tmp_path_factory, kept, every, beside, seed):
    # A class each, as TorchScript shares the code of equal ones.
    plain = type("Drawn", (nn.Module,), {})()
    plain.calls = 0
    for name in kept:
        if name == "buffer":
            plain.register_buffer(name, torch.zeros(1, 2))
        else:
            setattr(plain, name, KEPT[name].first)
    script = torch.jit.script(plain)
    changes = "\n".join(f"        {KEPT[name].change}" for name in kept)
    uses = "\n".join(f"    {KEPT[name].use}" for name in kept)
    count = "" if every == 1 else "    self.calls += 1\n"
    script.define(
        f"def forward(self, x: Tensor) -> Tensor:\n{count}    if self.calls % {every} == 0:\n{changes}\n"
        f"    total = 2.0 * x\n{uses}\n    {beside}\n    return total\n"
    )
    file = tmp_path_factory.mktemp("drawn") / "policy.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script.save(str(file))
    try:
        policy = load_quietly(file, PolicyInterface(shapes={"observation": (2,)}))
    except PolicyError as error:
        refused = {"grown", "named"} | ({"maybe", "past"} if every == 33 else set())
        assert any(f"'{name}'" in str(error) for name in refused & set(kept))
        return
    observations = torch.randn(40, 2, 2, generator=torch.Generator().manual_seed(seed))
    modules, states = modules_alone(file, 2), [policy.initial_state(2), policy.initial_state(2)]
    for step, seen in enumerate(observations):
        if step == 9:
            modules[1:] = modules_alone(file, 1)
            for order in range(2):
                states[order] = policy.reset(states[order], torch.arange(2) == 1 - order)
        actions, states[0] = policy(seen, states[0])
        exchanged, states[1] = policy(seen.flip(0), states[1])
        with torch.no_grad():
            expected = torch.cat([module(seen[row, None]) for row, module in enumerate(modules)])
        torch.testing.assert_close(actions, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(exchanged.flip(0), expected, rtol=1e-5, atol=1e-5)

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints of rsl_rl, rl_games and skrl act as their trainers do, beside an account in plain PyTorch."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_conformance import PolicyConformance
from test_bundle import describe, rewrite
from torch import nn

from policy_node.cli.export import export_policy, main
from policy_node.cli.policy_info import policy_info
from policy_node.config.parameters import ACTIVATIONS, OUTPUT_ACTIVATIONS
from policy_node.config.specs import DiscreteSpec, MultiDiscreteSpec
from policy_node.policies import Policy, PolicyError, PolicyInterface, load_policy
from policy_node.policies.checkpoints import actor

SIZE, ACTIONS, UNITS, ROBOTS = 6, 3, 5, 4
LOW, HIGH = (-1.0, -2.0, 0.0), (1.0, 2.0, 4.0)
# From observations `[robots, SIZE]` and the memory to actions and the next memory.
Account = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]


@dataclass
class Made:
    """A checkpoint, what it does not say, and what its trainer would do."""

    saved: dict[str, Any]
    interface: PolicyInterface
    account: Account

    def save(self, file: Path, legacy: bool = False) -> Path:
        torch.save(self.saved, file, _use_new_zipfile_serialization=not legacy)
        return file

    def load(self, folder: Path) -> Policy:
        return load_policy(self.save(folder / "checkpoint.file"), interface=self.interface)


def mlp(*sizes: int, activation: type[nn.Module] = nn.ELU, ends_activated: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*(layers if ends_activated else layers[:-1]))


def named(modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return the weights of modules."""
    return {f"{name}.{key}": part for name, module in modules.items() for key, part in module.state_dict().items()}


def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(SIZE) * 2, torch.rand(SIZE) * 3 + 0.1


def rsl_rl(
    layout: str = "1",
    recurrent: type[nn.LSTM] | type[nn.GRU] | None = None,
    normalised: bool = False,
    deviation: str = "std",
) -> Made:
    """Make a checkpoint of rsl_rl in the layout of a major version, or of the student of a distillation."""
    torch.manual_seed(1)
    outputs = 2 * ACTIONS if deviation == "of the state" else ACTIONS
    network = mlp(UNITS if recurrent else SIZE, 16, 8, outputs)
    memory = recurrent(SIZE, UNITS, 2) if recurrent else None
    mean, std = statistics()
    normaliser = {"_mean": mean[None], "_std": std[None], "_var": std[None] ** 2, "count": torch.tensor(7)}
    is_student = layout.startswith("student")
    if layout in ("5", "student 5"):
        entry = "student_state_dict" if is_student else "actor_state_dict"
        names = ("mlp", "rnn.rnn", "obs_normalizer", "distribution.std_param")
    else:
        part, letter = ("student", "s") if is_student else ("actor", "a")
        entry, names = "model_state_dict", (part, f"memory_{letter}.rnn", f"{part}_obs_normalizer", deviation)
    weights = {f"{names[0]}.{key}": value for key, value in network.state_dict().items()}
    if memory is not None:
        weights |= {f"{names[1]}.{key}": value for key, value in memory.state_dict().items()}
    if deviation != "of the state":
        weights[names[3]] = torch.ones(ACTIONS)
    if entry == "model_state_dict":
        weights |= named({"teacher" if is_student else "critic": mlp(SIZE, 4, 1)})
    saved: dict[str, Any] = {entry: weights, "optimizer_state_dict": {}, "iter": 3, "infos": None}
    if normalised and layout == "1":
        saved["obs_norm_state_dict"] = normaliser
    elif normalised:
        weights |= {f"{names[2]}.{key}": value for key, value in normaliser.items()}

    def account(observations: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        values = (observations - mean) / (std + 1e-2) if normalised else observations
        if memory is not None:
            sequence, state = memory(values[None], state)
            values = sequence[0]
        return network(values)[:, :ACTIONS], state

    return Made(saved, PolicyInterface(activation="elu"), account)


def rl_games(
    recurrent: type[nn.LSTM] | type[nn.GRU] | None = None,
    before: bool = False,
    with_input: bool = False,
    with_output: bool = False,
    layer_norm: bool = False,
    separate: bool = False,
    choices: tuple[int, ...] = (),
    clips: bool = True,
    apart: bool = False,
) -> Made:
    """Make a checkpoint of PPO of rl_games; `apart`: the statistics are an entry of their own, as before 1.2."""
    torch.manual_seed(2)
    extra = SIZE * with_output
    first = UNITS + extra if recurrent and before else SIZE
    network = mlp(first, 16, 8, activation=nn.Tanh, ends_activated=True)
    memory = recurrent(SIZE if before else 8 + SIZE * with_input, UNITS) if recurrent else None
    norm: nn.Module = nn.Identity()
    if layer_norm:
        norm = nn.LayerNorm(UNITS)
        norm.weight.data.uniform_()
    features = UNITS + extra if recurrent and not before else 8
    heads = nn.ModuleList([nn.Linear(features, count) for count in choices or (ACTIONS,)])
    mean, variance = (part.double() for part in statistics())
    normaliser = {"running_mean": mean, "running_var": variance, "count": torch.tensor(9.0, dtype=torch.float64)}
    letter = "a_" if separate else ""
    parts: dict[str, nn.Module] = {"actor_mlp": network, "value": nn.Linear(features, 1), f"{letter}layer_norm": norm}
    if separate:
        parts["critic_mlp"] = mlp(SIZE, 4)
    if memory is not None:
        parts[f"{letter}rnn.rnn"] = memory
    if len(choices) > 1:
        parts["logits"] = heads
    else:
        parts["logits" if choices else "mu"] = heads[0]
    weights = named({f"a2c_network.{name}": part for name, part in parts.items()})
    weights |= {"a2c_network.sigma": torch.zeros(ACTIONS), "value_mean_std.running_mean": torch.zeros(1)}
    saved: dict[str, Any] = {"model": weights, "epoch": 3, "last_mean_rewards": np.float32(2.5), "env_state": None}
    if apart:
        saved["running_mean_std"] = normaliser
    else:
        weights |= {f"running_mean_std.{key}": value for key, value in normaliser.items()}

    def account(observations: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        ready = torch.clamp((observations - mean.float()) / torch.sqrt(variance.float() + 1e-5), -5, 5)
        values = ready
        if memory is not None:
            if not before:
                values = network(values)
                values = torch.cat([values, ready], 1) if with_input else values
            sequence, state = memory(values[None], state)
            values = norm(sequence[0])
            values = torch.cat([values, ready], 1) if with_output else values
        if memory is None or before:
            values = network(values)
        outputs = [head(values) for head in heads]
        if choices:
            chosen = torch.stack([part.argmax(1) for part in outputs], 1)
            return chosen if len(choices) > 1 else chosen[:, 0], state
        if not clips:
            return outputs[0], state
        low, high = torch.tensor(LOW), torch.tensor(HIGH)
        return torch.clamp(outputs[0], -1, 1) * ((high - low) / 2) + (high + low) / 2, state

    bounds = {"output_activation": "hardtanh", "low": LOW, "high": HIGH} if clips else {"output_activation": "identity"}
    return Made(saved, PolicyInterface(activation="tanh", **({} if choices else bounds)), account)


def skrl(
    shared: bool = False, two: bool = False, tanh: bool = False, choices: int = 0, normalised: bool = True
) -> Made:
    """Make a checkpoint of skrl 1 or 2, of a policy of its runner that is shared with the value or not."""
    torch.manual_seed(3)
    hidden = mlp(SIZE, 16, 8, activation=nn.ReLU, ends_activated=True)
    last = nn.Linear(8, choices or ACTIONS)
    if shared:
        weights = named({"net_container": hidden, "policy_layer": last, "value_layer": nn.Linear(8, 1)})
    else:
        weights = named({"net_container": nn.Sequential(*hidden, last)})
    if not choices:
        weights["log_std_parameter"] = torch.zeros(ACTIONS)
    mean, variance = (part.double() for part in statistics())
    scaler = {"running_mean": mean, "running_variance": variance, "current_count": torch.tensor(5.0)}
    saved: dict[str, Any] = {"policy": weights, "value": named({"net_container": mlp(SIZE, 4, 1)}), "optimizer": {}}
    if normalised:
        saved["observation_preprocessor" if two else "state_preprocessor"] = scaler
    if two:
        # That of the critic.
        saved["state_preprocessor"] = {key: value + 1 for key, value in scaler.items()}

    def account(observations: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        if normalised:
            observations = (observations - mean.float()) / (torch.sqrt(variance.float()) + 1e-8)
            observations = torch.clamp(observations, -5, 5)
        outputs = last(hidden(observations))
        if choices:
            return outputs.argmax(1), state
        return torch.tanh(outputs) if tanh else outputs, state

    interface = PolicyInterface(activation="relu", output_activation="identity")
    if choices:
        interface = PolicyInterface(activation="relu", discrete=choices)
    elif tanh:
        interface = PolicyInterface(activation="relu", output_activation="tanh", low=-1, high=1)
    return Made(saved, interface, account)


MADE: dict[str, Callable[[], Made]] = {
    "rsl_rl 1": rsl_rl,
    "rsl_rl 1, normalised": lambda: rsl_rl(normalised=True, deviation="log_std"),
    "rsl_rl 1, LSTM": lambda: rsl_rl(recurrent=nn.LSTM, normalised=True),
    "rsl_rl 3, GRU": lambda: rsl_rl("3", nn.GRU, normalised=True),
    "rsl_rl 3, deviation of the state": lambda: rsl_rl("3", normalised=True, deviation="of the state"),
    "rsl_rl 5": lambda: rsl_rl("5", normalised=True),
    "rsl_rl 5, LSTM": lambda: rsl_rl("5", nn.LSTM, normalised=True),
    "rsl_rl 3, student": lambda: rsl_rl("student 3", nn.GRU, normalised=True),
    "rsl_rl 5, student": lambda: rsl_rl("student 5", normalised=True),
    "rl_games": rl_games,
    "rl_games, not clipped": lambda: rl_games(clips=False, separate=True),
    "rl_games 1.1": lambda: rl_games(apart=True),
    "rl_games, choice": lambda: rl_games(choices=(4,)),
    "rl_games, choices": lambda: rl_games(choices=(3, 2)),
    "rl_games, LSTM": lambda: rl_games(nn.LSTM, layer_norm=True),
    "rl_games, GRU, input": lambda: rl_games(nn.GRU, with_input=True, separate=True, layer_norm=True),
    "rl_games, LSTM first": lambda: rl_games(nn.LSTM, before=True),
    "rl_games, GRU first, output": lambda: rl_games(nn.GRU, before=True, with_output=True),
    "rl_games, LSTM, output": lambda: rl_games(nn.LSTM, with_output=True),
    "skrl 1": skrl,
    "skrl 1, shared": lambda: skrl(shared=True),
    "skrl 1, tanh": lambda: skrl(tanh=True, normalised=False),
    "skrl 2": lambda: skrl(two=True, shared=True),
    "skrl, choice": lambda: skrl(choices=4, shared=True),
}


@pytest.mark.parametrize("name", MADE)
def test_a_checkpoint_acts_as_its_trainer_does(name: str, tmp_path: Path) -> None:
    made = MADE[name]()
    policy = made.load(tmp_path)
    assert policy.spec.algorithm == name.partition(" ")[0].rstrip(",")
    generator = torch.Generator().manual_seed(0)
    state, theirs = policy.initial_state(ROBOTS), None
    for step in range(6):
        observations = torch.randn(ROBOTS, SIZE, generator=generator) * 3
        actions, state = policy(observations, state)
        with torch.no_grad():
            expected, theirs = made.account(observations, theirs)
        torch.testing.assert_close(actions, expected, rtol=1e-5, atol=1e-6)
        if step == 2:
            rows = torch.tensor([True, False, True, False])
            state = policy.reset(state, rows)
            for part in theirs if isinstance(theirs, tuple) else () if theirs is None else (theirs,):
                part[:, rows] = 0


def test_choices_are_those_of_the_layers(tmp_path: Path) -> None:
    one, several = (rl_games(choices=choices).load(tmp_path).spec.action for choices in ((4,), (3, 2)))
    assert isinstance(one, DiscreteSpec) and one.n == 4
    assert isinstance(several, MultiDiscreteSpec) and several.choices == (3, 2)


class TestRecurrentCheckpointsConform(PolicyConformance):
    @pytest.fixture(params=["rsl_rl 5, LSTM", "rl_games, GRU, input", "rl_games, choices", "skrl 1, tanh"])
    def policy(self, request: pytest.FixtureRequest, tmp_path: Path) -> Policy:
        return MADE[request.param]().load(tmp_path)


@pytest.mark.parametrize("name", ["rsl_rl 1", "rl_games", "skrl 1"])
def test_the_files_of_old_versions_of_pytorch_are_read(name: str, tmp_path: Path) -> None:
    made = MADE[name]()
    files = [made.save(tmp_path / f"{legacy}.pt", legacy) for legacy in (False, True)]
    observations = torch.randn(ROBOTS, SIZE)
    new, old = (load_policy(file, interface=made.interface)(observations)[0] for file in files)
    assert torch.equal(new, old)


def test_the_activations_of_the_parameters_are_those_that_are_known() -> None:
    assert set(ACTIVATIONS) == actor.ACTIVATIONS.keys()
    assert {*OUTPUT_ACTIVATIONS} == {"identity", *actor.SQUASHING}


@pytest.mark.parametrize(
    ("make", "lacks"),
    [
        (rsl_rl, r"rsl_rl without its activation function; give activation \(`policy\.activation`: identity, elu, "),
        (
            rl_games,
            r"rl_games without its activation function and the function after its last layer; .*`policy\.output",
        ),
        (skrl, r"skrl without its activation function and the function after its last layer; .*`policy\.output_activ"),
    ],
)
def test_what_a_checkpoint_does_not_say_is_named(make: Callable[[], Made], lacks: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=lacks):
        load_policy(make().save(tmp_path / "model.pt"))


def test_rescaling_needs_the_bounds(tmp_path: Path) -> None:
    file = rl_games().save(tmp_path / "model.pth")
    with pytest.raises(PolicyError, match=r"without the bounds of the action.*`policy\.low`"):
        load_policy(file, interface=PolicyInterface(activation="elu", output_activation="hardtanh"))


def test_an_open_distribution_is_named(tmp_path: Path) -> None:
    made = rsl_rl("5", deviation="of the state")
    file = made.save(tmp_path / "model.pt")
    with pytest.raises(PolicyError, match="Gaussian with a deviation for each state, or Beta; give output_activation"):
        load_policy(file, interface=made.interface)
    policy = load_policy(file, interface=PolicyInterface(activation="elu", output_activation="identity"))
    observations = torch.randn(ROBOTS, SIZE)
    torch.testing.assert_close(policy(observations)[0], made.account(observations, None)[0])


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(PolicyError, match="activation is 'swish'; allowed are 'identity', 'elu'"):
        PolicyInterface(activation="swish")


@pytest.mark.parametrize(
    ("make", "entry", "extra", "found"),
    [
        (rsl_rl, "model_state_dict", {"estimator.0.weight": torch.ones(2, 2)}, "estimator.0.weight"),
        (rsl_rl, "model_state_dict", {"actor.6.weight": torch.ones(2, 2, 3, 3)}, "actor.6"),
        (rl_games, "model", {"a2c_network.actor_cnn.0.weight": torch.ones(2, 2, 3, 3)}, "a2c_network.actor_cnn"),
        (rl_games, "model", {"a2c_network.actor_mlp.linears.0.weight": torch.ones(2, 2)}, "linears"),
        (skrl, "policy", {"net_container.1.running_mean": torch.ones(2)}, "running_mean"),
    ],
)
def test_parts_that_are_not_known_are_refused_by_name(
    make: Callable[[], Made], entry: str, extra: dict[str, torch.Tensor], found: str, tmp_path: Path
) -> None:
    made = make()
    made.saved[entry] |= extra
    with pytest.raises(PolicyError, match=rf"parts that are not known: .*{found}.*export the policy as ONNX"):
        made.load(tmp_path)


def test_layers_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    made = rsl_rl()
    made.saved["model_state_dict"]["actor.2.weight"] = torch.ones(8, 9)
    with pytest.raises(PolicyError, match="layers that do not fit each other"):
        made.load(tmp_path)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (torch.zeros(1).expand(10**7, 10**7), "has data of 4"),
        (torch.zeros(4, 10**7), "layers that do not fit each other"),
    ],
    ids=["repeated", "long"],
)
def test_lengths_in_a_checkpoint_take_no_memory(weight: torch.Tensor, says: str, tmp_path: Path) -> None:
    made = rsl_rl()
    memory = {"weight_ih_l0": torch.zeros(4, 8), "weight_hh_l0": weight}
    made.saved["model_state_dict"] |= {f"memory_a.rnn.{name}": part for name, part in memory.items()}
    with pytest.raises(PolicyError, match=says):
        made.load(tmp_path)


def test_the_order_of_sequences_with_names_of_their_author_is_not_guessed(tmp_path: Path) -> None:
    made = skrl()
    made.saved["policy"] = named({"encoder": mlp(SIZE, SIZE), "net": mlp(SIZE, 8, ACTIONS)})
    with pytest.raises(PolicyError, match="parts that are not known: encoder, net"):
        made.load(tmp_path)


def test_another_number_of_choices_is_refused(tmp_path: Path) -> None:
    file = skrl(choices=4).save(tmp_path / "agent.pt")
    with pytest.raises(PolicyError, match="has 4 choices, but discrete is 5"):
        load_policy(file, interface=PolicyInterface(activation="relu", discrete=5))


def test_a_preprocessor_without_its_variance_is_named(tmp_path: Path) -> None:
    made = skrl()
    del made.saved["state_preprocessor"]["running_variance"]
    with pytest.raises(PolicyError, match="skrl without running_variance in its preprocessor"):
        made.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "saved", "says"),
    [
        (
            "rsl_rl",
            {"model_state_dict": {"net.weight": torch.ones(2)}},
            "no training checkpoint of rsl_rl with",
        ),
        ("rl_games", {"model": {"sac_network.actor.trunk.0.weight": torch.ones(2, 2)}}, r"networks \['sac_network'\]"),
        ("skrl", {"value": {}}, r"no training checkpoint of skrl with a policy; it has the entries \['value'\]"),
        ("rsl_rl", [torch.ones(2)], "holds a list"),
    ],
)
def test_other_checkpoints_say_what_they_hold(kind: str, saved: Any, says: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(PolicyError, match=says):
        load_policy(tmp_path / "model.pt", format=kind)


class Marker:
    """An object that would make a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_checkpoint_is_run(legacy: bool, tmp_path: Path) -> None:
    made = rsl_rl()
    made.saved["infos"] = Marker(tmp_path / "made")
    file = made.save(tmp_path / "model.pt", legacy)
    with pytest.raises(PolicyError, match="cannot be read as a training checkpoint"):
        load_policy(file, interface=made.interface)
    assert not (tmp_path / "made").exists()


def test_objects_that_are_no_weights_are_left_out(tmp_path: Path) -> None:
    made = rsl_rl()
    made.saved["infos"] = {"generator": np.random.default_rng(0), "rewards": np.arange(3), "made": made.interface}
    assert made.load(tmp_path).spec.algorithm == "rsl_rl"


def test_a_call_of_the_system_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, ("true",))

    made = rsl_rl()
    made.saved["infos"] = Attack()
    with pytest.raises(PolicyError, match="cannot be read as a training checkpoint"):
        made.load(tmp_path)


def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = rsl_rl().save(tmp_path / "model.pt")
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(PolicyError, match="cut off or damaged"):
        load_policy(file, format="rsl_rl")


@pytest.mark.parametrize("name", ["rsl_rl 5, LSTM", "rl_games, GRU, input", "rl_games, choices", "skrl 1, tanh"])
@pytest.mark.parametrize(
    "suffix", [".bundle", ".pt", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".onnx", ".pt2"))]
)
def test_an_exported_checkpoint_acts_as_it_does(name: str, suffix: str, tmp_path: Path) -> None:
    made = MADE[name]()
    file = made.save(tmp_path / "checkpoint.file")
    result = export_policy(file, None, tmp_path / f"policy{suffix}", interface=made.interface)
    assert result["source_error"] <= 1e-5
    written = load_policy(tmp_path / f"policy{suffix}", trusted=suffix != ".bundle")
    source = load_policy(file, interface=made.interface)
    assert written.normalisation == source.normalisation == result["normalisation"]
    assert str(written.spec.action) == str(source.spec.action) and written.golden is not None


@pytest.mark.parametrize(
    ("layers", "says"),
    [(["linear", "os.system", "linear"], "layers that do not fit each other"), (["linear"], "layers that do not fit")],
)
def test_a_bundle_with_other_layers_is_refused(layers: list[str], says: str, tmp_path: Path) -> None:
    made = rsl_rl()
    export_policy(made.save(tmp_path / "model.pt"), None, tmp_path / "policy.bundle", interface=made.interface)
    changed = rewrite(tmp_path / "policy.bundle", tmp_path / "changed.bundle", describe(layers=layers))
    with pytest.raises(PolicyError, match="was changed after the export"):
        load_policy(changed)
    signed = rewrite(tmp_path / "policy.bundle", tmp_path / "signed.bundle", describe(layers=layers), sign=True)
    with pytest.raises(PolicyError, match=says):
        load_policy(signed)


def test_the_command_exports_and_verifies_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = rl_games().save(tmp_path / "model.pth"), tmp_path / "policy.bundle"
    says = ["--activation", "tanh", "--output-activation", "hardtanh", *"--low -1 -2 0 --high 1 2 4".split()]
    assert main([str(file), "--output", str(output)]) == 1
    assert "give activation (`policy.activation`" in capsys.readouterr().err
    assert main([str(file), *says, "--output", str(output)]) == 0
    assert main(["verify", str(output), "--against", str(file), *says]) == 0
    assert load_policy(output).spec.algorithm == "rl_games"


def test_statistics_of_a_checkpoint_are_inside(tmp_path: Path) -> None:
    made = rl_games()
    file = made.save(tmp_path / "model.pth")
    with pytest.raises(PolicyError, match="takes no vecnormalize: export it with its normalisation inside"):
        export_policy(file, "bundle", tmp_path / "policy.bundle", tmp_path / "statistics.pkl", interface=made.interface)


def test_a_checkpoint_and_its_bundle_are_shown_without_its_activations(tmp_path: Path) -> None:
    made = rsl_rl("3", nn.GRU, normalised=True)
    file = made.save(tmp_path / "model.pt")
    info = policy_info(file)
    assert not info["loaded"] and "policy.activation" in info["not_loaded"]
    assert info["observations"][0]["shape"] == [SIZE] and info["action"]["shape"] == [ACTIONS]
    assert [part["name"] for part in info["memory"]] == ["hidden"]
    export_policy(file, "bundle", tmp_path / "policy.bundle", interface=made.interface)
    bundle = policy_info(tmp_path / "policy.bundle")
    assert bundle["loaded"] and info["normalisation"] == bundle["normalisation"] == "inside"

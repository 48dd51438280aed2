# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of all algorithms of Stable-Baselines3: the contract, noise, normalisation and rules of their own."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
import torch
from parity_cases import ON_POLICY, Case
from policy_conformance import PolicyConformance, assert_same_actions, example_observations, last_actions, load_trusted
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper
from torch import nn

from policy_node.policies import Policy, PolicyError

# Makes the model of a case once; returns it with its file and that of its statistics, if it has them.
Saved = tuple[BaseAlgorithm, Path, Path | None]
Maker = Callable[..., Saved]


class CautiousLstm(RecurrentActorCriticPolicy):
    """Acts by a rule of its own."""

    def _predict(self, *arguments: Any, **named: Any) -> tuple[torch.Tensor, Any]:
        actions, state = super()._predict(*arguments, **named)
        return 0.5 * actions, state


class Reversed(MaskableActorCriticPolicy):
    """Acts by a rule of its own."""

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        return self.action_dist.proba_distribution(action_logits=-self.action_net(latent_pi))


class Linear(BasePolicy):
    """Derives from no policy of any algorithm."""

    def __init__(self, observation_space: Any, action_space: Any, lr_schedule: Any, use_sde: bool, **_: Any) -> None:
        super().__init__(observation_space, action_space)
        self.action_net = nn.Linear(observation_space.shape[0], action_space.shape[0])
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)

    def _predict(self, observation: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        return self.action_net(observation)


class WithOwnPredict(ActorCriticPolicy):
    """Replaces what works on NumPy arrays."""

    def predict(self, *arguments: Any, **named: Any) -> Any:
        actions, state = super().predict(*arguments, **named)
        return -actions, state


SQUASHED = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
CONFORMING = [
    *(Case(name, "vector") for name in cases.ALGORITHMS),
    Case("PPO", "Dict with categories"),
    Case("A2C", "MultiDiscrete"),
    Case("TQC", "image CHW"),
    Case("PPO", "Dict", "normalise, stack"),
    Case("SAC", "vector", "stack, normalise"),
    Case("RecurrentPPO", "vector", "normalise, stack", arguments=SQUASHED),
    Case("PPO", "vector", actions=("MultiDiscrete",)),
    Case("TRPO", "vector", actions=("MultiBinary",)),
    Case("MaskablePPO", "vector", actions=("MultiDiscrete",)),
    Case("MaskablePPO", "vector", actions=("MultiBinary",)),
    Case("SAC", "vector", option="own rules", policy=cases.CautiousSac),
    Case("DQN", "vector", option="own rules", policy=cases.LastOfDqn),
    Case("RecurrentPPO", "vector", option="own rules", policy=CautiousLstm),
    Case("MaskablePPO", "vector", option="own rules", policy=Reversed),
    Case("PPO", "vector", option="own class", policy=Linear),
]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Return the maker of models."""
    made: dict[tuple[str, str], Saved] = {}

    def make(case: Case) -> Saved:
        action = case.actions[0] if case.actions else cases.action_names(case.algorithm)[0]
        if (str(case), action) not in made:
            folder = tmp_path_factory.mktemp("model")
            _, venv = cases.make_environments(case, action)
            model = cases.make_model(case, venv)
            model.save(folder / "model.zip")
            normaliser = unwrap_vec_wrapper(venv, VecNormalize)
            if normaliser is not None:
                venv.reset()
                normaliser.save(folder / "vecnormalize.pkl")
            made[str(case), action] = (model, folder / "model.zip", folder / "vecnormalize.pkl" if normaliser else None)
        return made[str(case), action]

    return make


def load(saved: Saved, **arguments: Any) -> Policy:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*acts by its own rules")
        return load_trusted(saved[1], vecnormalize=saved[2], **arguments)


class TestConformance(PolicyConformance):
    @pytest.fixture(params=CONFORMING, ids=lambda case: f"{case}-{'-'.join(case.actions)}")
    def policy(self, request: pytest.FixtureRequest, saved: Maker) -> Policy:
        return load(saved(request.param))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("case", CONFORMING, ids=lambda case: f"{case}-{'-'.join(case.actions)}")
def test_cuda_gives_the_actions_of_the_cpu(case: Case, saved: Maker) -> None:
    on_cpu, on_cuda = (load(saved(case), device=device) for device in ("cpu", "cuda"))
    steps = [example_observations(on_cpu, 4, seed) for seed in range(3)]
    expected = last_actions(on_cpu, steps)
    moved = [{key: part.to(on_cuda.device) for key, part in step.items()} for step in steps]
    assert_same_actions(on_cpu, last_actions(on_cuda, moved).cpu(), expected)


@pytest.mark.parametrize("policy", [cases.Halving, Linear])
def test_a_class_with_rules_of_its_own_is_announced_once(policy: type, saved: Maker) -> None:
    _, file, _ = saved(Case("PPO", "vector", option=policy.__name__, policy=policy))
    with pytest.warns(UserWarning, match=rf"by its own rules \({policy.__name__}.*compare its actions") as caught:
        own = load_trusted(file)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(torch.zeros(2, 5), None)
    with pytest.raises(PolicyError, match="whose noise cannot be seeded; use deterministic=True"):
        load_trusted(file, deterministic=False)


def test_a_class_that_replaces_predict_is_refused(saved: Maker) -> None:
    _, file, _ = saved(Case("PPO", "vector", option="own predict", policy=WithOwnPredict))
    with pytest.raises(PolicyError, match=r"class WithOwnPredict of .* replaces predict, which work on NumPy arrays"):
        load_trusted(file)


def test_a_category_that_does_not_exist_stays_in_its_row(saved: Maker) -> None:
    for observation, wrong in (("Discrete", -1), ("Discrete", 6), ("MultiDiscrete", 4)):
        policy = load(saved(Case("PPO", observation)))
        observations = example_observations(policy, 3, seed=1)["observation"]
        expected, _ = policy(observations, None)
        spoiled = observations.clone()
        spoiled[1] = wrong
        actions, _ = policy(spoiled, None)
        assert torch.equal(actions[[0, 2]], expected[[0, 2]])
        assert bool(actions[1].isnan().all())


# What is drawn, and how it is drawn from the same observation a few thousand times by Stable-Baselines3.
DRAWN = [
    Case("PPO", "vector", actions=("Box",)),
    Case("PPO", "vector", option="gSDE", actions=("Box",), arguments={"use_sde": True}),
    Case("A2C", "vector", option="gSDE", actions=("Box float64",), arguments=SQUASHED),
    Case("PPO", "vector", actions=("Discrete",)),
    Case("TRPO", "vector", actions=("MultiDiscrete",)),
    Case("A2C", "vector", actions=("MultiBinary",)),
    Case("MaskablePPO", "vector", actions=("MultiBinary",)),
    Case("RecurrentPPO", "vector", actions=("Box",)),
    Case("SAC", "vector", actions=("Box",)),
    Case("TQC", "vector", option="gSDE", actions=("Box",), arguments={"use_sde": True}),
    Case("CrossQ", "vector", actions=("Box",)),
]


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: f"{case}-{'-'.join(case.actions)}")
def test_drawn_actions_have_the_distribution_of_predict(case: Case, saved: Maker) -> None:
    rows = 4000
    model, _, _ = saved(case)
    policy = load(saved(case), deterministic=False, seed=3)
    observation = np.linspace(-1.0, 1.0, 5, dtype=np.float32).repeat(rows).reshape(5, rows).T.copy()
    torch.manual_seed(4)
    if case.arguments.get("use_sde"):
        # One noise matrix for each row, as the policy has it.
        model.policy.reset_noise(rows)
    expected, _ = model.predict(observation, deterministic=False)
    found, _ = policy(torch.from_numpy(observation), policy.initial_state(rows))
    for moment in (1, 2):
        ours, theirs = (values.reshape(rows, -1).astype(float) ** moment for values in (found.numpy(), expected))
        error = np.abs(ours.mean(axis=0) - theirs.mean(axis=0))
        assert np.all(error <= 5 * np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / rows)), moment
    assert len(np.unique(found.numpy(), axis=0)) > 1


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: f"{case}-{'-'.join(case.actions)}")
def test_draws_come_from_the_seed(case: Case, saved: Maker) -> None:
    def draw(seed: int) -> torch.Tensor:
        policy = load(saved(case), deterministic=False, seed=seed)
        state = policy.initial_state(50)
        return torch.stack([policy(example_observations(policy, 50, step), state)[0] for step in range(3)])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("algorithm", ["DQN", "QRDQN"])
def test_each_row_tosses_its_own_coin(algorithm: str, saved: Maker, tmp_path: Path) -> None:
    model, _, _ = saved(Case(algorithm, "vector"))
    model.exploration_rate = 0.5
    model.save(tmp_path / "model.zip")
    rows = 4000
    observations = torch.zeros(rows, 5)
    greedy, _ = load_trusted(tmp_path / "model.zip")(observations, None)
    drawn, _ = load_trusted(tmp_path / "model.zip", deterministic=False)(observations, None)
    # Half of the rows, and of the others every fifth, which takes the same action by chance.
    assert abs(float((drawn == greedy).float().mean()) - 0.6) < 5 * np.sqrt(0.24 / rows)
    observations[0] = torch.nan
    drawn, _ = load_trusted(tmp_path / "model.zip", deterministic=False)(observations, None)
    assert int(drawn[0]) == -1


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG", "ARS"])
def test_algorithms_without_noise_stay_deterministic(algorithm: str, saved: Maker) -> None:
    case = saved(Case(algorithm, "vector"))
    observations = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load(case, deterministic=False)(observations, None)[0], load(case)(observations, None)[0])


def test_a_noise_matrix_lasts_until_the_reset_of_its_robot(saved: Maker) -> None:
    policy = load(saved(Case("SAC", "vector", option="gSDE", arguments={"use_sde": True})), deterministic=False)
    observations = torch.zeros(4, 5)
    state = policy.initial_state(4)
    first, state = policy(observations, state)
    again, state = policy(observations, state)
    assert torch.equal(again, first)
    assert len(first.unique(dim=0)) == 4
    rows = torch.tensor([False, True, False, True])
    after, _ = policy(observations, policy.reset(state, rows))
    assert torch.equal((after == first).all(dim=1), ~rows)


def test_masked_choices_are_not_drawn(saved: Maker) -> None:
    policy = load(saved(Case("MaskablePPO", "vector")), deterministic=False)
    masks = torch.rand(500, policy.spec.mask, generator=torch.Generator().manual_seed(2)) < 0.4
    actions, _ = policy(torch.zeros(500, 5), None, masks=masks)
    there = masks.any(dim=1)
    assert bool(masks[there, actions[there]].all())
    assert bool((actions[~there] == -1).all())


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_files_older_than_separate_extractors_load(algorithm: str, saved: Maker, tmp_path: Path) -> None:
    model, file, _ = saved(Case(algorithm, "image HWC"))
    expected = load_trusted(file)
    model.policy.state_dict, whole = (
        lambda: {name: part for name, part in whole().items() if not name.startswith(("pi_", "vf_"))},
        model.policy.state_dict,
    )
    try:
        model.save(tmp_path / "model.zip")
    finally:
        del model.policy.state_dict
    old = load_trusted(tmp_path / "model.zip")
    observations = example_observations(old, 3, seed=1)
    actions = [policy(observations, policy.initial_state(3))[0] for policy in (old, expected)]
    assert torch.equal(*actions)


def test_loading_does_not_import_the_compiler_of_pytorch(saved: Maker) -> None:
    _, file, _ = saved(Case("PPO", "vector"))
    program = f"import sys; from policy_node.policies import load_policy; load_policy({str(file)!r}, trusted=True)"
    program += "; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_missing_package_is_named(saved: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file, _ = saved(Case("TQC", "vector"))
    for module in [name for name in sys.modules if name.split(".")[0] == "sb3_contrib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(
        PolicyError, match=r"needs sb3_contrib.*, which is not installed; pip install --upgrade sb3-contrib"
    ):
        load_trusted(file)


def test_statistics_of_another_policy_are_refused(saved: Maker) -> None:
    _, vector, vector_statistics = saved(Case("PPO", "vector", "normalise"))
    _, both, both_statistics = saved(Case("PPO", "Dict", "normalise"))
    _, category, _ = saved(Case("PPO", "Discrete"))
    _, wide, _ = saved(Case("PPO", "vector uint8"))
    message = "was saved with this policy"
    with pytest.raises(PolicyError, match=rf"normalises 'touch', but of .* keys are \['observation'\]; .*{message}"):
        load_trusted(vector, vecnormalize=both_statistics)
    with pytest.raises(PolicyError, match=rf"normalises 'observation', but of .* \['camera', 'touch'\]; .*{message}"):
        load_trusted(both, vecnormalize=vector_statistics)
    with pytest.raises(PolicyError, match=rf"'observation' is Discrete\(6\); .*{message}"):
        load_trusted(category, vecnormalize=vector_statistics)
    with pytest.raises(PolicyError, match=rf"have the shape \[5\], the policy wants \[6\]; .*{message}"):
        load_trusted(wide, vecnormalize=vector_statistics)


def test_numbers_that_were_cut_off_in_training_are_refused(saved: Maker) -> None:
    _, file, statistics = saved(Case("PPO", "vector uint8", "normalise, stack"))
    with pytest.raises(PolicyError, match="normalised and then stacked as uint8, which cut off the normalised values"):
        load_trusted(file, vecnormalize=statistics)


def test_statistics_that_were_not_applied_change_nothing(saved: Maker, tmp_path: Path) -> None:
    _, file, _ = saved(Case("PPO", "vector"))
    _, venv = cases.make_environments(Case("PPO", "vector"), "Box")
    VecNormalize(venv, norm_obs=False).save(tmp_path / "vecnormalize.pkl")
    observations = torch.ones(2, 5)
    expected, _ = load_trusted(file)(observations, None)
    actions, _ = load_trusted(file, vecnormalize=tmp_path / "vecnormalize.pkl")(observations, None)
    assert torch.equal(actions, expected)


def test_normalised_images_are_given_as_they_come(saved: Maker) -> None:
    arguments = {"policy_kwargs": {"normalize_images": False}}
    policy = load(saved(Case("PPO", "image CHW", "normalise, stack", arguments=arguments)))
    assert str(policy.spec.observations["observation"]) == "observation: uint8 [9, 36, 40] in [0, 255]"
    assert list(policy.spec.memory) == ["frames"]

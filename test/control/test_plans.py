# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The action that is due in the plans of a fleet, against plain references robot by robot."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.config.parameters import ChunkConfiguration
from policy_node.control.plans import PlanStore

PERIOD_NS = 20_000_000
PERIOD_S = 0.02


@dataclass
class Reference:
    """The plans of one robot: a list of (start, taken, actions), the oldest first."""

    chunk: ChunkConfiguration
    step_ns: int
    plans: list[tuple[int, int, np.ndarray]] = field(default_factory=list)

    def action_of(self, plan: tuple[int, int, np.ndarray], now_ns: int) -> np.ndarray:
        start_ns, _, actions = plan
        position = (now_ns - start_ns) / self.step_ns
        index = math.floor(position)
        if index >= len(actions) - 1:
            return actions[-1]
        share = position - index
        return (1.0 - share) * actions[index] + share * actions[index + 1]

    def due(self, now_ns: int) -> np.ndarray | None:
        if not self.plans:
            return None
        start_ns, _, actions = self.plans[-1]
        hold_ns = round(self.chunk.hold_s * 1e9) if self.chunk.on_exhausted == "hold" else 0
        if now_ns - start_ns >= len(actions) * self.step_ns + hold_ns:
            return None
        if self.chunk.max_age_s and now_ns - start_ns > round(self.chunk.max_age_s * 1e9):
            return None
        if self.chunk.aggregate == "ensemble":
            most_ns = round(self.chunk.max_age_s * 1e9) or math.inf
            covering = [plan for plan in self.plans if now_ns - plan[0] < len(plan[2]) * self.step_ns]
            covering = [plan for plan in covering if now_ns - plan[0] <= most_ns]
            if covering:
                weights = [math.exp(-self.chunk.ensemble_decay * index) for index in range(len(covering))]
                weighted = [w * self.action_of(plan, now_ns) for w, plan in zip(weights, covering, strict=True)]
                return sum(weighted) / sum(weights)
        if self.chunk.aggregate == "blend":
            blended = self.action_of(self.plans[0], now_ns)
            for plan in self.plans[1:]:
                share = min(1.0, (now_ns - plan[1]) / (self.chunk.blend_s * 1e9))
                blended = (1.0 - share) * blended + share * self.action_of(plan, now_ns)
            return blended
        return self.action_of(self.plans[-1], now_ns)


@st.composite
def chunks(draw: st.DrawFn) -> ChunkConfiguration:
    return ChunkConfiguration(
        step_s=draw(st.sampled_from([0.0, 0.02, 0.05, 0.1])),
        aggregate=draw(st.sampled_from(["newest", "ensemble", "blend", "prefix"])),
        ensemble_decay=draw(st.sampled_from([0.01, -0.1, 1.0])),
        blend_s=draw(st.sampled_from([0.001, 0.05, 0.1])),
        on_exhausted=draw(st.sampled_from(["stop", "hold"])),
        hold_s=draw(st.sampled_from([0.0, 0.05])),
        max_age_s=draw(st.sampled_from([0.0, 0.15])),
    )


@given(
    chunk=chunks(),
    horizon=st.integers(2, 9),
    robots=st.integers(1, 4),
    events=st.lists(st.sampled_from(["plan", "drop", "wait", "wait", "plan all"]), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_store_gives_what_a_plain_reference_gives(
    chunk: ChunkConfiguration, horizon: int, robots: int, events: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    store = PlanStore(robots, horizon, 3, PERIOD_NS, chunk)
    references = [Reference(chunk, store.step_ns) for _ in range(robots)]
    now_ns = 1_700_000_000_000_000_000
    last_start_ns = now_ns
    for event in events:
        now_ns += PERIOD_NS + int(rng.integers(-300_000, 300_000))
        if event.startswith("plan"):
            rows = np.arange(robots) if event == "plan all" else np.flatnonzero(rng.random(robots) < 0.5)
            # The inference took up to eight ticks; plans come in the order of their observations.
            start_ns = min(now_ns, max(last_start_ns, now_ns - int(rng.integers(0, 8)) * PERIOD_NS))
            last_start_ns = start_ns + PERIOD_NS
            actions = rng.normal(size=(len(rows), horizon, 3))
            store.take(rows, start_ns, now_ns, actions)
            for row, plan in zip(rows, actions, strict=True):
                if references[row].due(now_ns) is None:
                    # Nothing of a plan that has ended continues.
                    references[row].plans.clear()
                references[row].plans.append((start_ns, now_ns, plan))
        elif event == "drop":
            dropped = rng.random(robots) < 0.5
            store.drop(dropped)
            for row in np.flatnonzero(dropped):
                references[row].plans.clear()
        due = store.due(now_ns)
        for row, reference in enumerate(references):
            expected = reference.due(now_ns)
            assert due.missing[row] == (expected is None)
            assert due.waiting[row] == (not reference.plans)
            if expected is not None:
                np.testing.assert_allclose(due.actions[row], expected, rtol=1e-12, atol=1e-12)
            if reference.plans:
                assert due.ages_s[row] == pytest.approx((now_ns - reference.plans[-1][0]) / 1e9)


@given(horizon=st.integers(2, 12), steps=st.integers(1, 40), decay=st.sampled_from([0.0, 0.01, 0.5]))
def test_an_ensemble_of_a_plan_per_step_is_algorithm_2_of_act(horizon: int, steps: int, decay: float) -> None:
    rng = np.random.default_rng(horizon * 1000 + steps)
    chunk = ChunkConfiguration(aggregate="ensemble", ensemble_decay=decay, replan_every=1)
    store = PlanStore(2, horizon, 2, PERIOD_NS, chunk)
    # Buffers B[0:T] of the paper: all actions that were predicted for each time step, in the order of prediction.
    buffers: list[list[np.ndarray]] = [[] for _ in range(steps + horizon)]
    for step in range(steps):
        now_ns = step * PERIOD_NS
        assert store.wanted(now_ns).all()
        predicted = rng.normal(size=(2, horizon, 2))
        for ahead in range(horizon):
            buffers[step + ahead].append(predicted[:, ahead])
        store.take(np.arange(2), now_ns, now_ns, predicted)
        weights = np.exp(-decay * np.arange(len(buffers[step])))
        expected = sum(w * action for w, action in zip(weights, buffers[step], strict=True)) / weights.sum()
        np.testing.assert_allclose(store.due(now_ns).actions, expected, rtol=1e-12, atol=1e-14)


def test_actions_on_the_steps_are_exact_and_those_during_inference_are_skipped_by_time() -> None:
    store = PlanStore(1, 4, 1, PERIOD_NS, ChunkConfiguration())
    actions = np.array([[[0.1], [0.2], [0.3], [0.4]]])
    store.take(np.array([0]), 1000, 1000 + 2 * PERIOD_NS, actions)
    assert store.due(1000 + 2 * PERIOD_NS).actions.item() == 0.3
    assert store.due(1000 + 2 * PERIOD_NS + PERIOD_NS // 2).actions.item() == pytest.approx(0.35)
    # The last action has its step, too.
    assert store.due(1000 + 4 * PERIOD_NS - 1).actions.item() == 0.4
    assert store.due(1000 + 4 * PERIOD_NS).exhausted.all()


def test_choices_and_chosen_components_are_not_interpolated() -> None:
    actions = np.array([[[0.0, 0.0], [1.0, 1.0]]])
    store = PlanStore(1, 2, 2, PERIOD_NS, ChunkConfiguration(), nearest=[1])
    store.take(np.array([0]), 0, 0, actions)
    assert store.due(PERIOD_NS * 4 // 10).actions.tolist() == [[0.4, 0.0]]
    assert store.due(PERIOD_NS // 2).actions.tolist() == [[0.5, 1.0]]
    assert store.due(PERIOD_NS * 6 // 10).actions.tolist() == [[0.6, 1.0]]
    choices = PlanStore(1, 2, 2, PERIOD_NS, ChunkConfiguration(aggregate="ensemble"), choices=True)
    for start_ns in (0, PERIOD_NS):
        choices.take(np.array([0]), start_ns, start_ns, actions + start_ns)
    assert choices.due(PERIOD_NS).actions.tolist() == [[PERIOD_NS, PERIOD_NS]]


@pytest.mark.parametrize("horizon", [0, 1])
def test_a_policy_without_a_horizon_keeps_its_action_for_a_second_or_as_long_as_configured(horizon: int) -> None:
    for chunk, last_s in ((ChunkConfiguration(), 1.0), (ChunkConfiguration(max_age_s=0.3), 0.3)):
        store = PlanStore(1, horizon, 1, PERIOD_NS, chunk)
        assert store.lasts_s == last_s
        assert store.due(0).waiting.all()
        store.take(np.array([0]), 0, 0, np.ones((1, 1, 1)))
        last_ns = round(last_s * 1e9)
        assert not store.due(last_ns).missing.any()
        assert store.due(last_ns + 1).outdated.all()


def test_a_robot_is_planned_again_after_its_steps_with_ticks_a_little_early() -> None:
    store = PlanStore(2, 10, 1, PERIOD_NS, ChunkConfiguration(replan_every=5))
    assert store.wanted(0).all()
    store.take(np.array([1]), 0, 0, np.zeros((1, 10, 1)))
    assert store.wanted(4 * PERIOD_NS).tolist() == [True, False]
    assert store.wanted(5 * PERIOD_NS - 1_000_000).all()
    store.drop(np.array([False, True]))
    assert store.wanted(PERIOD_NS).all()


def test_a_tick_that_is_up_to_half_a_period_early_requests_the_next_plan() -> None:
    store = PlanStore(1, 10, 1, PERIOD_NS, ChunkConfiguration(replan_every=5))
    store.take(np.array([0]), 0, 0, np.zeros((1, 10, 1)))
    assert not store.wanted(9 * PERIOD_NS // 2 - 1).any() and store.wanted(9 * PERIOD_NS // 2).all()


@pytest.mark.parametrize(("max_age_s", "ended_ns"), [(0.0, 2 * PERIOD_NS), (0.03, 30_000_001)])
def test_a_plan_that_has_ended_when_the_next_one_comes_is_not_blended_with_it(max_age_s: float, ended_ns: int) -> None:
    for now_ns, expected in ((ended_ns - 1, 0.0), (ended_ns, 1.0)):
        store = PlanStore(1, 2, 1, PERIOD_NS, ChunkConfiguration(aggregate="blend", max_age_s=max_age_s))
        store.take(np.array([0]), 0, 0, np.zeros((1, 2, 1)))
        store.take(np.array([0]), now_ns, now_ns, np.ones((1, 2, 1)))
        assert store.due(now_ns).actions.item() == expected


def test_a_plan_of_the_largest_age_still_counts_for_the_average() -> None:
    store = PlanStore(1, 10, 1, PERIOD_NS, ChunkConfiguration(aggregate="ensemble", ensemble_decay=0.0, max_age_s=0.04))
    for tick in range(2):
        store.take(np.array([0]), tick * PERIOD_NS, tick * PERIOD_NS, np.full((1, 10, 1), float(tick)))
    assert store.due(2 * PERIOD_NS).actions.item() == 0.5
    assert store.due(2 * PERIOD_NS + 1).actions.item() == 1.0


def test_the_last_action_of_the_newest_plan_is_held_where_no_plan_covers_the_present() -> None:
    chunk = ChunkConfiguration(aggregate="ensemble", on_exhausted="hold", hold_s=1.0)
    store = PlanStore(1, 2, 1, PERIOD_NS, chunk)
    for tick in range(2):
        store.take(np.array([0]), tick * PERIOD_NS, tick * PERIOD_NS, np.full((1, 2, 1), 1.0 + tick))
    assert store.due(2 * PERIOD_NS).actions.item() == store.due(4 * PERIOD_NS).actions.item() == 2.0
    assert not store.due(4 * PERIOD_NS).missing.any()


def test_a_blend_never_jumps_where_plans_follow_each_other_within_its_time() -> None:
    rng = np.random.default_rng(0)
    store = PlanStore(1, 20, 1, PERIOD_NS, ChunkConfiguration(aggregate="blend", blend_s=0.1))
    before = None
    for tick in range(60):
        now_ns = tick * PERIOD_NS
        if tick % 2 == 0:
            # Each plan is a constant of its own.
            store.take(np.array([0]), now_ns, now_ns, np.full((1, 20, 1), rng.uniform(-1.0, 1.0)))
        action = store.due(now_ns).actions.item()
        assert before is None or abs(action - before) <= 2.0 * 2 * PERIOD_S / 0.1
        before = action


def test_the_rest_of_a_plan_is_given_from_now_on_with_its_last_action_repeated() -> None:
    store = PlanStore(2, 3, 1, PERIOD_NS, ChunkConfiguration(aggregate="prefix"))
    store.take(np.array([0]), 0, 0, np.array([[[1.0], [2.0], [3.0]]]))
    upcoming = store.upcoming(np.array([1, 0]), PERIOD_NS)
    assert upcoming[:, :, 0].tolist() == [[0.0, 0.0, 0.0], [2.0, 3.0, 3.0]]
    assert store.upcoming(np.array([0]), PERIOD_NS // 4)[0, :, 0].tolist() == [1.25, 2.25, 3.0]

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import argparse
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from policy_node.cli.options import INTERRUPTED
from policy_node_rover.mujoco.environment import action_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv, wrap_for_policy
from policy_node_rover.training.cli import main
from policy_node_rover.training.imitation import SEQUENCE_STEPS, Demonstrations, count_rounds
from policy_node_rover.training.model import make_model, recorded_forward
from policy_node_rover.training.progress import TrainingProgress, describe_duration
from policy_node_rover.training.report import write_model_card
from policy_node_rover.training.run import EpisodeSeeds, read_state

SMALL = ["--arenas", "2", "--renderer", "raycast", "--processes", "1"]
IMITATION = ["--imitation-steps", "384", "--imitation-passes", "8"]
UNKNOWN = {"success_rate": None, "mean_time_to_press_s": None}
QUICK = [*SMALL, *IMITATION, "--quiet", "--evaluate", "0"]


def test_training_seeds_are_large():
    seeds = list(itertools.islice(EpisodeSeeds(0), 1000))
    assert min(seeds) >= 2**32
    assert seeds == list(itertools.islice(EpisodeSeeds(0), 1000))
    assert seeds != list(itertools.islice(EpisodeSeeds(1), 1000))


def test_restored_seeds_continue_with_the_running_episodes():
    seeds = EpisodeSeeds(0)
    first = [next(seeds) for _ in range(5)]
    state = seeds.state(first[3:])
    again = EpisodeSeeds(7)
    again.restore(state)
    assert [next(again) for _ in range(2)] == first[3:]
    assert next(again) == next(seeds)


@pytest.mark.parametrize(
    ("variant", "kind", "shapes"),
    [
        pytest.param([], PPO, {"image": (3, 64, 64), "touch": (8,)}, marks=pytest.mark.slow),
        pytest.param(["--observations", "image"], PPO, {"image": (3, 64, 64)}, marks=pytest.mark.slow),
        pytest.param(["--stack", "2"], PPO, {"image": (6, 64, 64), "touch": (16,)}, marks=pytest.mark.slow),
        pytest.param(["--recurrent"], RecurrentPPO, {"image": (3, 64, 64), "touch": (8,)}, marks=pytest.mark.slow),
    ],
)
def test_every_variant_is_trained_and_left_as_an_ordinary_zip(tmp_path, variant, kind, shapes):
    output = ["--output", str(tmp_path)]
    assert main([*output, *QUICK, "--steps", "512", "--value-steps", "0", *variant]) == 0
    model = kind.load(tmp_path / "rover.zip")
    assert {key: space.shape for key, space in model.observation_space.spaces.items()} == shapes
    assert model.action_space == action_space()
    assert model.num_timesteps == 512
    curve = json.loads((tmp_path / "curve.json").read_text())
    imitation = [point for point in curve if point["phase"] == "imitation"]
    assert [point["steps"] for point in imitation] == [128, 256, 384, 384]
    # The last round only learns.
    assert imitation[-1]["steps_per_s"] is None and all(point["steps_per_s"] > 0 for point in imitation[:-1])
    assert (curve[-1]["phase"], curve[-1]["steps"]) == ("ppo", 512)
    assert not (tmp_path / "samples").exists()


@pytest.mark.slow
def test_what_is_learnt_depends_neither_on_the_number_of_processes_nor_on_the_recording(tmp_path, monkeypatch):
    learnt = []
    recordings = []

    def recorded(policy, observations):
        recordings.append(observations)
        return recorded_forward(policy, observations)

    for processes, forward in (("1", lambda policy, _: policy.forward), ("2", recorded)):
        monkeypatch.setattr("policy_node_rover.training.ppo.recorded_forward", forward)
        output = tmp_path / processes
        arguments = ["--output", str(output), *QUICK, "--processes", processes]
        assert main([*arguments, "--steps", "512", "--value-steps", "0"]) == 0
        learnt.append(PPO.load(output / "rover.zip").policy.state_dict())
    assert len(recordings) == 1
    assert all(torch.equal(value, learnt[1][name]) for name, value in learnt[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_saves_a_checkpoint(tmp_path, number):
    arguments = ["--output", str(tmp_path), *SMALL, "--processes", "3", "--arenas", "3", "--imitation-steps", "100000"]
    program = f"import sys; from policy_node_rover.training.cli import main; sys.exit(main({arguments}))"
    training = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + 120.0
    while not list(tmp_path.glob("samples/*")):
        assert training.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(training.pid, number)
    said, _ = training.communicate(timeout=120.0)
    assert training.returncode == INTERRUPTED and "resume with" in said and "Traceback" not in said
    assert (tmp_path / "checkpoint.pt").exists()


def test_the_traced_forward_pass_samples_as_the_policy():
    arenas = wrap_for_policy(RoverArenaVecEnv(3, itertools.count(5), "raycast"), ("image", "touch"), 1)
    policy = make_model(arenas).policy
    before = torch.get_rng_state()
    recorded = recorded_forward(policy, obs_as_tensor(arenas.reset(), "cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    for seed in range(5):
        torch.manual_seed(seed)
        observations = {
            "image": torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8),
            "touch": 10.0 * torch.rand(3, 8),
        }
        with torch.no_grad():
            # The trace follows the parameters.
            for parameter in policy.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
            torch.manual_seed(seed)
            drawn = recorded(observations)
            torch.manual_seed(seed)
            expected = policy(observations)
        for one, other in zip(drawn, expected, strict=True):
            assert one.shape == other.shape and torch.equal(one, other)
    arenas.close()


@pytest.mark.slow
def test_what_stands_beside_the_model_says_how_it_was_made_and_how_it_drives(tmp_path):
    arguments = [
        "--output",
        str(tmp_path),
        *SMALL,
        "--imitation-steps",
        "0",
        "--steps",
        "512",
        "--value-steps",
        "0",
        "--quiet",
        "--seed",
        "3",
    ]
    assert main([*arguments, "--evaluate", "2"]) == 0
    training = json.loads((tmp_path / "training.json").read_text())
    assert training["command"].startswith("policy_train --output") and training["seed"] == 3
    assert training["runs"] == [{"command": training["command"], "commit": training["commit"]}]
    assert training["steps"] == {"imitation": 0, "ppo": 512}
    assert training["versions"]["torch"] == torch.__version__
    text = (tmp_path / "rover.md").read_text()
    assert training["command"] in text
    for conditions in ("nominal", "adverse"):
        found = json.loads((tmp_path / f"evaluation_{conditions}.json").read_text())
        assert found["conditions"] == conditions and found["episodes"] == 2
        assert f"- conditions {conditions}: {found['successes']} of 2 episodes succeeded" in text


@pytest.fixture
def stop_after(monkeypatch):
    """Send SIGTERM at a point of the learning curve."""

    def arrange(points: int) -> None:
        original = TrainingProgress.add_point

        def add_point(self: TrainingProgress) -> dict:
            point = original(self)
            if len(self.curve) == points:
                os.kill(os.getpid(), signal.SIGTERM)
            return point

        monkeypatch.setattr(TrainingProgress, "add_point", add_point)

    return arrange


@pytest.mark.slow
@pytest.mark.parametrize("variant", [[], ["--recurrent"]])
def test_an_interrupted_imitation_keeps_samples_and_moments(tmp_path, stop_after, variant):
    arguments = ["--output", str(tmp_path), *QUICK, "--steps", "0", *variant]
    stop_after(2)
    assert main(arguments) == INTERRUPTED
    state = read_state(tmp_path)
    assert state["imitation"]["round"] == 2
    assert state["imitation"]["samples"] == 128
    updates = {float(moments["step"]) for moments in state["imitation"]["optimiser"]["state"].values()}
    assert max(updates) >= 1
    seen = np.load(tmp_path / "samples" / "touch.npy")[:128].copy()
    targets = np.load(tmp_path / "samples" / "target.npy")[:128].copy()
    assert np.abs(targets).max(axis=(1, 2)).min() > 0

    stop_after(3)
    assert main([*arguments, "--resume"]) == INTERRUPTED
    after = read_state(tmp_path)
    assert after["imitation"]["samples"] == 192
    assert max(float(moments["step"]) for moments in after["imitation"]["optimiser"]["state"].values()) > max(updates)
    assert np.array_equal(np.load(tmp_path / "samples" / "touch.npy")[:128], seen)
    assert np.array_equal(np.load(tmp_path / "samples" / "target.npy")[:128], targets)

    assert main([*arguments, "--resume"]) == 0
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [point["steps"] for point in curve] == [128, 256, 384, 384]
    elapsed_s = [point["elapsed_s"] for point in curve]
    assert elapsed_s == sorted(elapsed_s)


@pytest.mark.slow
def test_the_record_names_every_part_of_the_training_and_no_later_evaluation(tmp_path, stop_after, monkeypatch, capsys):
    arguments = ["--output", str(tmp_path), *QUICK, "--steps", "0"]
    first = [word for word in arguments if word != "--quiet"]
    stop_after(1)
    monkeypatch.setattr("policy_node_rover.training.report.running_commit", lambda: "a")
    assert main(arguments) == INTERRUPTED
    monkeypatch.undo()
    monkeypatch.setattr("policy_node_rover.training.report.running_commit", lambda: "b")
    said = capsys.readouterr().out.splitlines()[-1].partition("resume with: ")[2]
    assert shlex.split(said) == ["policy_train", *arguments, "--resume"]
    assert main(shlex.split(said)[1:]) == 0
    training = json.loads((tmp_path / "training.json").read_text())
    commands = [shlex.join(["policy_train", *first, *more]) for more in ([], ["--resume"])]
    assert training["runs"] == [{"command": commands[0], "commit": "a"}, {"command": commands[1], "commit": "b"}]
    assert (training["command"], training["commit"]) == (commands[0], "a")

    monkeypatch.setattr("policy_node_rover.training.report.running_commit", lambda: "c")
    model = (tmp_path / "rover.zip").read_bytes()
    assert main([*arguments[:-4], "--quiet", "--steps", "0", "--resume", "--evaluate", "1"]) == 0
    assert json.loads((tmp_path / "training.json").read_text()) == training
    assert read_state(tmp_path)["runs"] == training["runs"]
    assert (tmp_path / "rover.zip").read_bytes() == model
    text = (tmp_path / "rover.md").read_text()
    assert "- commit a, seed 0" in text and f"- continued by `{commands[1]}`, commit b" in text
    assert "of 1 episodes succeeded" in text


class Killed(BaseException):
    """Raised in place of SIGKILL."""


@pytest.fixture
def die_after(monkeypatch):
    """End the training at a point of the learning curve, as if it was killed."""

    def arrange(points: int) -> None:
        original = TrainingProgress.add_point

        def add_point(self: TrainingProgress) -> dict:
            point = original(self)
            if len(self.curve) == points:
                raise Killed
            return point

        monkeypatch.setattr(TrainingProgress, "add_point", add_point)

    return arrange


@pytest.mark.slow
def test_a_killed_imitation_goes_on_from_its_latest_checkpoint(tmp_path, die_after, monkeypatch):
    arguments = ["--output", str(tmp_path), *QUICK, "--steps", "0", "--checkpoint-s", "0"]
    die_after(2)
    with pytest.raises(Killed):
        main(arguments)
    state = read_state(tmp_path)["imitation"]
    assert (state["round"], state["samples"]) == (1, 64)
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    assert [point["steps"] for point in json.loads((tmp_path / "curve.json").read_text())] == [128, 256, 384, 384]


@pytest.mark.slow
def test_nobody_goes_on_from_the_checkpoint_of_a_training_that_was_overwritten(tmp_path, stop_after, die_after):
    arguments = ["--output", str(tmp_path), *QUICK, "--steps", "0"]
    stop_after(2)
    assert main(arguments) == INTERRUPTED
    die_after(1)
    with pytest.raises(Killed):
        main([*arguments, "--overwrite"])
    with pytest.raises(SystemExit, match="train without --resume first"):
        main([*arguments, "--resume"])


def test_a_training_is_only_overwritten_when_asked_for_and_then_leaves_nothing(tmp_path, stop_after):
    arguments = ["--output", str(tmp_path), *QUICK, "--steps", "0"]
    stop_after(1)
    assert main(arguments) == INTERRUPTED
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit, match=r"holds a training already \(checkpoint.pt\); give --resume .* --overwrite"):
        main(arguments)
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint

    for name in ("notes.txt", "evaluation_nominal.json", "rover.md", "training.json", "imitation.zip"):
        (tmp_path / name).write_text("earlier")
    (tmp_path / "ppo_1").mkdir()
    nothing = [*arguments[:2], *QUICK, "--imitation-steps", "0", "--steps", "0"]
    assert main([*nothing, "--overwrite"]) == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "notes.txt",
        "checkpoint.pt",
        "checkpoint.zip",
        "curve.json",
        "rover.zip",
        "training.json",
        "rover.md",
    }
    assert "earlier" not in (tmp_path / "rover.md").read_text()

    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(SystemExit, match=r"\(rover.zip, training.json\); give --overwrite"):
        main(nothing)


@pytest.mark.parametrize("steps", ["1", "512"])
def test_steps_that_would_not_change_the_policy_are_refused(tmp_path, steps):
    with pytest.raises(SystemExit, match=f"^train: --steps {steps} would change nothing .* --value-steps 512"):
        main(["--output", str(tmp_path / "new"), *QUICK, "--steps", steps, "--value-steps", "512"])
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_in_one_line_and_leaves_no_half_file(tmp_path, monkeypatch, capfd):
    def interrupted_save(self: PPO, path: Path) -> None:
        path.write_bytes(b"half a model")
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(PPO, "save", interrupted_save)
    assert main(["--output", str(tmp_path), *QUICK, "--steps", "0"]) == INTERRUPTED
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "stopped\n")
    assert list(tmp_path.glob("*.zip")) == []


def test_an_interrupted_evaluation_leaves_the_trained_model(tmp_path, monkeypatch, capfd):
    def interrupted(options: argparse.Namespace, quiet: bool) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("policy_node_rover.evaluation.evaluate.evaluate", interrupted)
    arguments = ["--output", str(tmp_path), *SMALL, "--imitation-steps", "0", "--quiet", "--evaluate", "1"]
    assert main(arguments) == INTERRUPTED
    assert capfd.readouterr().err == "stopped\n"
    assert PPO.load(tmp_path / "rover.zip").num_timesteps == 0


def test_the_help_refers_to_the_options_of_train(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "policy_train train --help" in capsys.readouterr().out


def test_samples_that_are_missing_are_named(tmp_path, stop_after):
    arguments = ["--output", str(tmp_path), *QUICK, "--steps", "0"]
    stop_after(1)
    assert main(arguments) == INTERRUPTED
    (tmp_path / "samples" / "image.npy").unlink()
    with pytest.raises(SystemExit, match=r"image.npy' is missing, which the checkpoint needs; train with --overwrite"):
        main([*arguments, "--resume"])


@pytest.mark.slow
def test_an_interrupted_ppo_goes_on_with_its_steps_and_moments(tmp_path, stop_after):
    arguments = ["--output", str(tmp_path), *QUICK, "--imitation-steps", "0", "--steps", "1024", "--value-steps", "0"]
    stop_after(1)
    assert main(arguments) == INTERRUPTED
    state = read_state(tmp_path)
    assert state["steps"] == 512
    steps = max(float(moments["step"]) for moments in state["optimiser"]["state"].values())
    assert steps >= 1
    assert main([*arguments, "--resume"]) == 0
    assert PPO.load(tmp_path / "rover.zip").num_timesteps == 1024
    finished = read_state(tmp_path)
    assert max(float(moments["step"]) for moments in finished["optimiser"]["state"].values()) > steps
    assert [point["steps"] for point in json.loads((tmp_path / "curve.json").read_text())] == [512, 1024]


@pytest.mark.slow
def test_at_first_ppo_teaches_the_value_function_only(tmp_path, stop_after):
    arguments = ["--output", str(tmp_path), *QUICK, "--imitation-steps", "0", "--value-steps", "512"]
    assert main([*arguments, "--steps", "0"]) == 0
    before = PPO.load(tmp_path / "rover.zip").policy.state_dict()
    arguments += ["--steps", "1024"]
    stop_after(1)
    assert main([*arguments, "--overwrite"]) == INTERRUPTED
    taught = read_state(tmp_path)["policy"]
    changed = {name for name in before if not torch.equal(before[name], taught[name])}
    assert changed and all("value_net" in name for name in changed)
    assert main([*arguments, "--resume"]) == 0
    after = PPO.load(tmp_path / "rover.zip").policy.state_dict()
    assert not torch.equal(after["action_net.weight"], before["action_net.weight"])


def test_resuming_from_nothing_or_another_training_says_what_to_do(tmp_path):
    arguments = ["--output", str(tmp_path), *QUICK, "--imitation-steps", "0", "--steps", "0"]
    with pytest.raises(SystemExit, match="train without --resume first"):
        main([*arguments, "--resume"])
    main(arguments)
    with pytest.raises(SystemExit, match=r"--stack 1, found 2; give the same, or another --output"):
        main([*arguments, "--resume", "--stack", "2"])
    with pytest.raises(SystemExit, match=r"--steps 0, found 512; give the same"):
        main([*arguments, "--resume", "--steps", "512", "--value-steps", "0"])


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_trained(tmp_path, device):
    with pytest.raises(SystemExit, match=f"^train: device is '{device}'"):
        main(["--output", str(tmp_path / "new"), *QUICK, "--device", device])
    assert not (tmp_path / "new").exists()


def test_sampled_stacks_equal_the_observations_of_the_policy(tmp_path):
    arenas = wrap_for_policy(RoverArenaVecEnv(2, itertools.count(5), "raycast"), ("image", "touch"), 3)
    samples = Demonstrations(tmp_path, 40, 2, ("image", "touch"), 3, None)
    seen = {}
    observations, ages = arenas.reset(), np.zeros(2, np.int32)
    for step in range(40):
        # The targets identify the sample.
        targets = np.array([[step, row] for row in range(2)], np.float32)
        samples.add(observations, targets, ages, None)
        for row in range(2):
            seen[step, row] = {key: values[row].copy() for key, values in observations.items()}
        if step == 20:
            observations, ages = arenas.reset(), np.zeros(2, np.int32)
            continue
        observations, _, dones, _ = arenas.step(np.full((2, 2), 0.5, np.float32))
        ages = np.where(dones, 0, ages + 1)
    batch = samples.sample(200, np.random.default_rng(0), torch.device("cpu"))
    assert batch.states is None
    for sample, (step, row) in enumerate(batch.targets.int().tolist()):
        for key, values in seen[step, row].items():
            assert np.array_equal(batch.observations[key][sample].numpy(), values), (key, step, row)


def test_sequences_start_with_the_stored_lstm_state(tmp_path):
    samples = Demonstrations(tmp_path, 3 * SEQUENCE_STEPS, 2, ("touch",), 1, (1, 4))
    for step in range(3 * SEQUENCE_STEPS):
        targets = np.array([[step, row] for row in range(2)], np.float32)
        hidden = torch.tensor([[[step + row / 2] * 4 for row in range(2)]])
        ages = np.array([step % 40, step % 25], np.int32)
        samples.add({"touch": np.full((2, 8), step, np.float32)}, targets, ages, (hidden, -hidden))
    batch = samples.sample(4 * SEQUENCE_STEPS, np.random.default_rng(0), torch.device("cpu"))
    steps, rows = batch.targets.reshape(4, SEQUENCE_STEPS, 2).permute(2, 0, 1)
    assert torch.equal(steps, steps[:, :1] + torch.arange(SEQUENCE_STEPS))
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(batch.observations["touch"][:, 0], batch.targets[:, 0])
    expected = (steps[:, 0] + rows[:, 0] / 2)[None, :, None].expand(1, 4, 4)
    assert torch.equal(batch.states[0], expected) and torch.equal(batch.states[1], -expected)
    period = torch.where(rows == 0, 40, 25)
    assert torch.equal(batch.starts.reshape(4, SEQUENCE_STEPS), (steps % period == 0).float())


@pytest.mark.parametrize("stack", [1, 3])
def test_wrapped_arenas_equal_the_wrappers_of_stable_baselines3(stack):
    ours = wrap_for_policy(RoverArenaVecEnv(2, itertools.count(5), "raycast"), ("image",), stack)
    theirs = VecFrameStack(VecTransposeImage(RoverArenaVecEnv(2, itertools.count(5), "raycast")), stack)
    assert list(ours.observation_space.spaces) == ["image"]
    assert np.array_equal(ours.reset()["image"], theirs.reset()["image"])
    for _ in range(3):
        actions = np.full((2, 2), 0.5, np.float32)
        assert np.array_equal(ours.step(actions)[0]["image"], theirs.step(actions)[0]["image"])


def test_the_last_quarter_of_the_rounds_only_learns():
    assert count_rounds(384, 2) == (3, 4)
    assert count_rounds(200_000, 16) == (196, 262)
    assert count_rounds(0, 16) == (0, 0)


def test_progress_in_a_pipe_has_lines_with_steps_success_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr("policy_node_rover.training.progress.LINE_PERIOD_S", 0.0)
    with TrainingProgress({"imitation": 100.0, "ppo": 300.0}, quiet=False) as progress:
        progress.start_phase("imitation", 0, 1000, 0.0)
        for episode in range(19):
            progress.add_episode({"is_success": episode % 2 == 1, "time_s": 4.0})
        progress.show(500, 0.5)
        few = progress.add_point()
        progress.add_episode({"is_success": True, "time_s": 4.0})
        point = progress.add_point()
        progress.show(500, 0.75)
    assert few["success_rate"] is None and few["mean_time_to_press_s"] is None and few["steps_per_s"] > 0
    assert point["success_rate"] == 0.5 and point["mean_time_to_press_s"] == 4.0 and point["steps_per_s"] is None
    lines = capsys.readouterr().err.splitlines()
    assert "success" not in lines[-2]
    last = "imitation: 75 %  500/1000 steps  – steps/s  success 50 %, 0 seconds so far, 1 seconds left of it, 1 seconds"
    assert lines[-1] == f"{last} of all"


def test_durations_are_in_seconds_below_two_minutes():
    assert [describe_duration(duration_s) for duration_s in (12.3, 119.0, 150.0, 1234.0)] == [
        "12 seconds",
        "119 seconds",
        "2 minutes",
        "21 minutes",
    ]


def test_the_model_card_has_one_row_for_equal_steps(tmp_path):
    curve = [
        {"phase": "imitation", "steps": steps, "elapsed_s": elapsed_s, "steps_per_s": rate, **UNKNOWN}
        for steps, elapsed_s, rate in ((128, 6.0, 20.0), (256, 12.0, 20.0), (256, 18.0, None), (256, 24.0, None))
    ]
    run = {"command": "policy_train", "commit": None}
    training = {
        **run,
        "runs": [run],
        "seed": 0,
        "steps": {},
        "wall_time_s": 24.0,
        "cores": 1,
        "cpu": "-",
        "versions": {},
    }
    write_model_card(tmp_path, training, curve, {})
    rows = [line for line in (tmp_path / "rover.md").read_text().splitlines() if line.startswith("| imitation")]
    assert rows == ["| imitation | 128 | 0.1 | – | – | 20.0 |", "| imitation | 256 | 0.4 | – | – | – |"]


def test_quiet_progress_prints_nothing(capsys):
    with TrainingProgress({"ppo": 1.0}, quiet=True) as progress:
        progress.start_phase("ppo", 0, 10, 0.0)
        progress.show(10, 1.0)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_memory_of_large_arrays_is_kept():
    program = """
import resource
from policy_node.cli.process_environment import keep_memory

keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [b"x" * (20 << 20) for _ in range(8)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    # Released memory would be mapped again page by page: 40 000 faults.
    assert int(done.stdout) < 4000

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train, evaluate and compare policies that drive the rover (`policy_train`).

Training has two phases. In the imitation the policy drives a growing share of the episodes, and every step is labelled
with the command of the scripted driver (DAgger). PPO then continues on the reward of the task, if it is requested. The
result is a zip of Stable-Baselines3, of PPO or RecurrentPPO.

A training that was interrupted is resumed from its latest checkpoint with all data and weights. Only the running
episodes restart, with the same seeds, so the result is not bit-identical to that of an uninterrupted training.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from policy_node.cli.options import INTERRUPTED, number
from policy_node.cli.process_environment import keep_memory
from policy_node.cli.signal_handling import temporary_handler
from policy_node.policies import PolicyError, select_device
from policy_node_rover.evaluation import evaluate
from policy_node_rover.mujoco.rendering import KINDS, RendererError
from policy_node_rover.training import imitation, ppo, report
from policy_node_rover.training.progress import TrainingProgress, describe_duration
from policy_node_rover.training.run import (
    MODEL_FILE,
    RECORD_FILE,
    TrainingConfig,
    TrainingRun,
    check_folder_is_unused,
    remove_training,
)

OBSERVATIONS = ("image+touch", "image")
TRAINING_CONDITIONS = ("nominal", "randomised")
EVALUATED_CONDITIONS = ("nominal", "adverse")
# Learning from a sample once takes about a third of the time to collect it.
_PASSES_PER_STEP = 3


def train(config: TrainingConfig, words: Sequence[str]) -> TrainingRun | None:
    """Train a policy and save it as `rover.zip` in the output folder; return None when it was stopped before its end.

    `words` are those of the command.
    """
    if not config.resume and not config.overwrite:
        check_folder_is_unused(config.output)
    config.output.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.set_num_threads(config.threads)
    work = {
        imitation.PHASE: config.imitation_steps * (1 + config.imitation_passes / _PASSES_PER_STEP),
        ppo.PHASE: config.steps * 2.0,
    }
    model_file = config.output / MODEL_FILE
    with TrainingProgress({phase: amount for phase, amount in work.items() if amount}, config.quiet) as progress:
        run = TrainingRun(config, progress)
        with closing(run.arenas):
            if config.resume:
                run.restore()
            if config.overwrite:
                remove_training(config.output)
            learns = not run.is_done()
            if config.resume and learns:
                progress.print_line(f"resuming after {describe_duration(progress.elapsed_s)} of training")
            if learns or not run.runs:
                run.runs.append(
                    {"command": _without(words, "--quiet", "--overwrite"), "commit": report.running_commit()}
                )
            with temporary_handler(run.on_signal, signal.SIGINT, signal.SIGTERM):
                finished = imitation.imitate(run) and ppo.run_ppo(run)
        if not finished:
            progress.print_line(f"stopped; resume with: {_without(words, '--resume', '--overwrite')} --resume")
            return None
        if learns or not model_file.exists():
            run.save_checkpoint()
            # The state of the optimiser, two thirds of the file, is only needed in the checkpoint.
            run.model.policy.optimizer.state.clear()
            run.save_model(MODEL_FILE)
            progress.print_line(f"saved {model_file} after {describe_duration(progress.elapsed_s)}")
        else:
            progress.print_line(f"{model_file} is complete already")
        return run


def _without(words: Sequence[str], *options: str) -> str:
    """Return the command for a shell, without some of its options."""
    return shlex.join(["policy_train", *(word for word in words if word not in options)])


def train_and_evaluate(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Train, write the model card, and evaluate the policy."""
    if 0 < options.steps <= options.value_steps:
        raise SystemExit(
            f"train: --steps {options.steps} would change nothing of the policy, as the first --value-steps "
            f"{options.value_steps} of them teach the value function only; give more --steps, or fewer --value-steps"
        )
    config = TrainingConfig(**vars(options))
    config.device = str(select_device(options.device))
    run = train(config, words[1:])
    if run is None:
        return INTERRUPTED
    curve, record_file = run.progress.curve, config.output / RECORD_FILE
    if config.resume and record_file.exists():
        training = json.loads(record_file.read_text())
    else:
        steps = {imitation.PHASE: config.imitation_steps, ppo.PHASE: config.steps}
        training = report.write_training_record(config.output, run.runs, config.seed, steps, run.progress.elapsed_s)
        report.write_model_card(config.output, training, curve, {})
    if config.evaluate:
        reports = {}
        for conditions in EVALUATED_CONDITIONS:
            file = config.output / f"evaluation_{conditions}.json"
            arguments = ["evaluate", str(config.output / MODEL_FILE), "--conditions", conditions, "--json", str(file)]
            arguments += ["--episodes", str(config.evaluate)]
            for name in ("arenas", "renderer", "device", "processes", "threads"):
                arguments += [f"--{name}", str(getattr(config, name))]
            evaluation = make_parser().parse_args(arguments)
            reports[f"conditions {conditions}"] = evaluate.evaluate(evaluation, config.quiet)
        report.write_model_card(config.output, training, curve, reports)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_train`."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--arenas", type=number(int, 1), default=16, help="number of arenas (default 16)")
    add("--renderer", choices=KINDS, default="auto", help="renderer of the camera images (default auto)")
    add("--device", default="cpu", help="device of the policy: cpu, cuda or auto (default cpu)")
    add(
        "--processes",
        type=number(int, 0),
        default=0,
        help="processes that simulate and render; the results do not depend on it; 0: one for each CPU (default 0)",
    )
    add("--threads", type=number(int, 1), default=1, help="threads of PyTorch; change the rounding (default 1)")
    parser = argparse.ArgumentParser(
        prog="policy_train",
        description="Train a policy that drives the rover, evaluate one, or compare several. Without a subcommand it "
        "trains.",
        epilog="All options of the training: policy_train train --help. Documentation: doc/training.md",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser(
        "train",
        parents=[shared],
        help="train a policy (the default)",
        description="Train a policy by imitation of a scripted driver and, with --steps, by PPO. --resume continues an "
        "interrupted training from its latest checkpoint; only running episodes restart. Ctrl-C saves a checkpoint at "
        "the end of the present round, a second one stops at once.",
        allow_abbrev=False,
    )
    _add_training_options(training)
    evaluate.add_parser(commands, shared)
    report.add_parser(commands)
    return parser


def _add_training_options(training: argparse.ArgumentParser) -> None:
    add = training.add_argument
    add("--seed", type=number(int, 0), default=0, help="seed of layouts and learning (default 0)")
    add(
        "--output",
        type=Path,
        default=Path("runs/rover"),
        help="folder for model, curve, checkpoints and TensorBoard logs (default runs/rover)",
    )
    existing = training.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="resume from the checkpoint in the output folder")
    existing.add_argument("--overwrite", action="store_true", help="delete the training in the output folder first")
    add("--checkpoint-s", type=number(float, 0), default=60.0, help="time between checkpoints (default 60)")
    add(
        "--evaluate",
        type=number(int, 0),
        default=500,
        help="episodes of the final evaluations under nominal and adverse conditions; 0: none (default 500)",
    )
    add("--quiet", action="store_true", help="show no progress")
    add("--observations", choices=OBSERVATIONS, default=OBSERVATIONS[0], help="of the policy (default image+touch)")
    add("--stack", type=number(int, 1), default=1, help="how many of the latest observations (default 1)")
    add("--recurrent", action="store_true", help="train a policy with an LSTM (RecurrentPPO)")
    add("--conditions", choices=TRAINING_CONDITIONS, default="randomised", help="of the episodes (default randomised)")
    add(
        "--imitation-steps",
        type=number(int, 0),
        default=160_000,
        help="steps of the imitation, over all arenas; 0: none (default 160000)",
    )
    add(
        "--imitation-passes",
        type=number(float, 0),
        default=12.0,
        help="how often the imitation learns from each step, on average (default 12)",
    )
    add(
        "--steps",
        type=number(int, 0),
        default=0,
        help="steps of PPO, over all arenas; 0: none, as they do not improve the shipped policy (default 0)",
    )
    add(
        "--value-steps",
        type=number(int, 0),
        default=65_536,
        help="first steps of PPO that train the value function only; --steps must be more (default 65536)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `policy_train`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in ("train", "evaluate", "report", "-h", "--help"):
        words.insert(0, "train")
    options = make_parser().parse_args(words)
    try:
        if options.command == "train":
            return train_and_evaluate(options, words)
        if options.command == "evaluate":
            evaluate.evaluate(options)
        else:
            report.report(options)
    except (PolicyError, RendererError) as error:
        raise SystemExit(f"{options.command}: {error}") from error
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

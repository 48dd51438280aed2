# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate the policy that drives the rover (`policy_train`).

Training has two phases. First the policy imitates the scripted driver: the policy itself drives, more and more of the
time, and the driver says at each step what it would have done (DAgger). Then PPO goes on, on the reward of the task,
for as many steps as are asked for. The result is an ordinary zip of Stable-Baselines3, of PPO or, with a memory, of
RecurrentPPO.

A training that was stopped, by whatever, goes on from its latest checkpoint with everything that it had collected and
learnt by then. Only the episodes that were running begin anew, with the same seeds, so that its further course is not
bit for bit that of a training without interruption.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from policy_node.cli.options import INTERRUPTED, number
from policy_node.cli.process_environment import keep_memory
from policy_node.policies import PolicyError, select_device
from policy_node_rover.mujoco.rendering import KINDS, RendererError
from policy_node_rover.training import evaluate as train_evaluate
from policy_node_rover.training import imitation as train_imitation
from policy_node_rover.training import ppo as train_ppo
from policy_node_rover.training import report as train_report
from policy_node_rover.training.checkpoint import MODEL_FILE, refuse_to_overwrite, remove_training
from policy_node_rover.training.plan import Plan
from policy_node_rover.training.progress import TrainingProgress, describe_duration
from policy_node_rover.training.record import describe_model, read_training, record_training, running_commit
from policy_node_rover.training.run import TrainingRun

OBSERVATIONS = ("image+touch", "image")
TRAINING_CONDITIONS = ("nominal", "randomised")
EVALUATED_CONDITIONS = ("nominal", "adverse")
# A pass over a sample takes about a third of the time of collecting it.
_PASSES_LIKE_A_STEP = 3


def train(plan: Plan, words: Sequence[str], resume: bool, overwrite: bool, quiet: bool) -> TrainingRun | None:
    """Train a policy and save it as `rover.zip` in the output folder.

    Parameters
    ----------
    plan
        What is to be done.
    words
        The command, word by word.
    resume
        Whether to go on from the checkpoint in the output folder.
    overwrite
        Whether to delete the training that it holds.
    quiet
        Whether no progress is shown.

    Returns
    -------
    TrainingRun | None
        The training at its end; None when it was asked to stop before.
    """
    if not resume and not overwrite:
        refuse_to_overwrite(plan.output)
    plan.output.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.set_num_threads(plan.threads)
    work = {
        train_imitation.PHASE: plan.imitation_steps * (1 + plan.imitation_passes / _PASSES_LIKE_A_STEP),
        train_ppo.PHASE: plan.steps * 2.0,
    }
    with TrainingProgress({phase: amount for phase, amount in work.items() if amount}, quiet) as progress:
        run = TrainingRun(plan, progress)
        with closing(run.arenas):
            if resume:
                run.restore()
            if overwrite:
                remove_training(plan.output)
            learns = not run.is_over()
            if resume and learns:
                progress.say(f"resuming after {describe_duration(progress.elapsed_s)} of training")
            if learns or not run.runs:
                run.runs.append({"command": _without(words, "--quiet", "--overwrite"), "commit": running_commit()})
            with run.stop.listening():
                finished = _imitate(run) and train_ppo.improve(run)
        if not finished:
            progress.say(f"stopped; go on with: {_without(words, '--resume', '--overwrite')} --resume")
            return None
        if learns or not (plan.output / MODEL_FILE).exists():
            run.save_checkpoint()
            # The moments of the optimiser, two thirds of the file, matter to --resume only, which uses the checkpoint.
            run.model.policy.optimizer.state.clear()
            run.save_model(MODEL_FILE)
            progress.say(f"saved {plan.output / MODEL_FILE} after {describe_duration(progress.elapsed_s)}")
        else:
            progress.say(f"{plan.output / MODEL_FILE} is trained already")
        return run


def _without(words: Sequence[str], *options: str) -> str:
    """Return the command without some of its options, as a shell takes it."""
    return shlex.join(["policy_train", *(word for word in words if word not in options)])


def _imitate(run: TrainingRun) -> bool:
    """Go through the imitation, or what is left of it; False when the training is to stop before its end."""
    if not run.imitation_is_over() and not train_imitation.Imitation(run).learn():
        return False
    shutil.rmtree(run.plan.output / train_imitation.SAMPLES, ignore_errors=True)
    return True


def train_and_record(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Train, write down how the policy was made, and evaluate it."""
    if 0 < options.steps <= options.value_steps:
        raise SystemExit(
            f"train: --steps {options.steps} would change nothing of the policy, as the first --value-steps "
            f"{options.value_steps} of them teach the value function only; give more --steps, or fewer --value-steps"
        )
    plan = Plan(
        output=options.output,
        seed=options.seed,
        arenas=options.arenas,
        keys=tuple(options.observations.split("+")),
        stack=options.stack,
        recurrent=options.recurrent,
        conditions=options.conditions,
        imitation_steps=options.imitation_steps,
        imitation_passes=options.imitation_passes,
        steps=options.steps,
        value_steps=options.value_steps,
        renderer=options.renderer,
        device=str(select_device(options.device)),
        processes=options.processes,
        threads=options.threads,
        checkpoint_s=options.checkpoint_s,
    )
    run = train(plan, words[1:], options.resume, options.overwrite, options.quiet)
    if run is None:
        return INTERRUPTED
    curve = run.progress.curve
    training = read_training(plan.output) if options.resume else None
    if training is None:
        steps = {train_imitation.PHASE: plan.imitation_steps, train_ppo.PHASE: plan.steps}
        training = record_training(plan.output, run.runs, plan.seed, steps, run.progress.elapsed_s)
        describe_model(plan.output, training, curve, {})
    if options.evaluate:
        shared = ["--arenas", str(plan.arenas), "--renderer", plan.renderer, "--device", plan.device]
        shared += ["--processes", str(plan.processes), "--threads", str(plan.threads)]
        found = {}
        for conditions in EVALUATED_CONDITIONS:
            file = plan.output / f"evaluation_{conditions}.json"
            evaluation = ["evaluate", str(plan.output / MODEL_FILE), *shared]
            evaluation += ["--episodes", str(options.evaluate), "--conditions", conditions, "--json", str(file)]
            given = make_parser().parse_args(evaluation)
            found[f"conditions {conditions}"] = train_evaluate.evaluate(given, options.quiet)
        describe_model(plan.output, training, curve, found)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_train`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--arenas", type=number(int, 1), default=16, help="arenas simulated at once (default 16)")
    shared.add_argument("--renderer", choices=KINDS, default="auto", help="how camera images are made (default auto)")
    shared.add_argument("--device", default="cpu", help="device of the policy: cpu, cuda or auto (default cpu)")
    shared.add_argument(
        "--processes",
        type=number(int, 0),
        default=0,
        help="processes that simulate and draw the arenas; what comes of them does not depend on it; 0: one for each "
        "CPU (default 0)",
    )
    shared.add_argument(
        "--threads",
        type=number(int, 1),
        default=1,
        help="threads of PyTorch; several round sums otherwise than one, so that other weights are learnt (default 1)",
    )
    parser = argparse.ArgumentParser(
        prog="policy_train",
        description="Train the policy that drives the rover, evaluate one, or compare several. Without a subcommand it "
        "trains.",
        epilog="All options of the training: policy_train train --help",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_training(
        commands.add_parser("train", parents=[shared], help="train a policy (the default)", allow_abbrev=False)
    )
    train_evaluate.add_parser(commands, shared)
    train_report.add_parser(commands)
    return parser


def _add_training(training: argparse.ArgumentParser) -> None:
    training.description = (
        "Train a policy, by imitation of a scripted driver and, with --steps, by PPO. A training that was stopped, by "
        "whatever, goes on with --resume from its latest checkpoint with all that it had collected and learnt by then; "
        "only running episodes begin anew. Ctrl-C saves a checkpoint at the end of the present round, a second one "
        "ends at once."
    )
    training.add_argument("--seed", type=number(int, 0), default=0, help="seed of layouts and learning (default 0)")
    training.add_argument(
        "--output",
        type=Path,
        default=Path("runs/rover"),
        help="folder for model, curve, checkpoints and logs of TensorBoard (default runs/rover)",
    )
    earlier = training.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    earlier.add_argument(
        "--overwrite", action="store_true", help="first delete the training that the output folder holds"
    )
    training.add_argument(
        "--observations",
        choices=OBSERVATIONS,
        default=OBSERVATIONS[0],
        help="what the policy is given (default image+touch)",
    )
    training.add_argument(
        "--stack", type=number(int, 1), default=1, help="how many of the latest observations (default 1)"
    )
    training.add_argument("--recurrent", action="store_true", help="a policy with a memory (RecurrentPPO)")
    training.add_argument(
        "--conditions",
        choices=TRAINING_CONDITIONS,
        default="randomised",
        help="under which it is trained (default randomised)",
    )
    training.add_argument(
        "--imitation-steps",
        type=number(int, 0),
        default=160_000,
        help="steps of imitation before PPO, over all arenas; 0: none (default 160000)",
    )
    training.add_argument(
        "--imitation-passes",
        type=number(float, 0),
        default=12.0,
        help="how often each of them is learnt from, on average (default 12)",
    )
    training.add_argument(
        "--steps",
        type=number(int, 0),
        default=0,
        help="steps of PPO after it, over all arenas; 0: none, as it makes the shipped policy no better (default 0)",
    )
    training.add_argument(
        "--value-steps",
        type=number(int, 0),
        default=65_536,
        help="how many of them at first teach the value function only; --steps must be more (default 65536)",
    )
    training.add_argument(
        "--checkpoint-s", type=number(float, 0), default=60.0, help="time between checkpoints (default 60)"
    )
    training.add_argument(
        "--evaluate",
        type=number(int, 0),
        default=500,
        help="episodes of each evaluation at the end, under nominal and under adverse conditions; 0: none "
        "(default 500)",
    )
    training.add_argument("--quiet", action="store_true", help="show no progress")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `policy_train`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in ("train", "evaluate", "report", "-h", "--help"):
        words.insert(0, "train")
    options = make_parser().parse_args(words)
    try:
        if options.command == "train":
            return train_and_record(options, words)
        if options.command == "evaluate":
            train_evaluate.evaluate(options)
        else:
            train_report.report(options)
    except (PolicyError, RendererError) as error:
        raise SystemExit(f"{options.command}: {error}") from error
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

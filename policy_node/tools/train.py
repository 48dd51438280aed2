# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate the policy that drives the rover (`policy_train`).

Training has two parts. First the policy imitates the scripted driver: the policy itself drives, more and more of the
time, and the driver says at each step what it would have done (DAgger). Then PPO improves the policy on the reward of
the task. The result is an ordinary Stable-Baselines3 PPO zip.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from tqdm import tqdm

from policy_node.options import number
from policy_node.simulation.environment import RoverArenaVecEnv, observation_space
from policy_node.simulation.rendering import KINDS
from policy_node.simulation.scripted import scripted_command
from policy_node.tools import train_evaluate

DISCOUNT = 0.99
STEPS_PER_UPDATE = 256


def episode_seeds(seed: int) -> Iterator[int]:
    """Endless random episode seeds for training, all above 2**32, so that no small seed is ever trained on."""
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.integers(2**32, 2**62))


def make_model(arenas: RoverArenaVecEnv, options: argparse.Namespace) -> PPO:
    """Make an untrained PPO model with the default feature extractors of Stable-Baselines3."""
    return PPO(
        "MultiInputPolicy",
        arenas,
        learning_rate=LinearSchedule(2.5e-4, 2e-5, 1.0),
        n_steps=STEPS_PER_UPDATE,
        batch_size=min(512, STEPS_PER_UPDATE * arenas.num_envs),
        n_epochs=3,
        gamma=DISCOUNT,
        gae_lambda=0.95,
        clip_range=0.15,
        ent_coef=0.0,
        target_kl=0.03,
        policy_kwargs={"net_arch": [256], "log_std_init": -1.2},
        tensorboard_log=str(options.output),
        seed=options.seed,
        device=options.device,
    )


class Imitation:
    """The samples of the imitation, and what is learnt from them.

    Parameters
    ----------
    model
        The model whose policy learns.
    arenas
        Where it drives.
    capacity
        How many samples there will be.
    seed
        Seed of the mixture of drivers and of the order of the samples.
    progress
        Called with the number of samples just collected or learnt from.
    """

    def __init__(
        self, model: PPO, arenas: RoverArenaVecEnv, capacity: int, seed: int, progress: Callable[[int], object]
    ) -> None:
        spaces = observation_space().spaces
        self._model = model
        self._arenas = arenas
        self._rng = np.random.default_rng(seed)
        self._observations = {
            key: np.empty((capacity, *(space.shape or ())), space.dtype) for key, space in spaces.items()
        }
        self._targets = np.empty((capacity, 2), np.float32)
        self._returns = np.empty(capacity, np.float32)
        self._size = 0
        self._progress = progress
        self._current = arenas.reset()
        policy: ActorCriticPolicy = model.policy
        self._optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)

    def collect(self, steps: int, driver_share: float) -> float:
        """Drive for a number of steps per arena, the scripted driver in a share of the arenas, and keep the samples.

        Returns the success rate of the episodes that ended in arenas driven by the policy, NaN if none did.
        """
        arenas = self._arenas.num_envs
        rewards = np.zeros((steps, arenas), np.float32)
        dones = np.zeros((steps, arenas), bool)
        driven = self._rng.random(arenas) < driver_share
        successes = []
        start = self._size
        for step in range(steps):
            rows = slice(start + step * arenas, start + (step + 1) * arenas)
            for key, values in self._current.items():
                self._observations[key][rows] = values
            wanted = np.array([scripted_command(task.arena) for task in self._arenas.tasks], np.float32)
            self._targets[rows] = wanted
            own, _ = self._model.predict(self._current, deterministic=self._rng.random() < 0.5)
            actions = np.where(driven[:, None], wanted, own)
            self._arenas.step_async(actions)
            self._current, rewards[step], dones[step], infos = self._arenas.step_wait()
            successes += [infos[row]["is_success"] for row in range(arenas) if dones[step, row] and not driven[row]]
            self._progress(arenas)
        with torch.no_grad():
            tensors, _ = self._model.policy.obs_to_tensor(self._current)
            following = self._model.policy.predict_values(tensors).cpu().numpy()[:, 0]
        returns = self._returns[start : start + steps * arenas].reshape(steps, arenas)
        for step in reversed(range(steps)):
            following = rewards[step] + DISCOUNT * following * ~dones[step]
            returns[step] = following
        self._size += steps * arenas
        return float(np.mean(successes)) if successes else float("nan")

    def learn(self, epochs: int, value_from: int) -> float:
        """Fit actions on all samples, and values on the samples from a row on; return the mean error of the actions."""
        policy: ActorCriticPolicy = self._model.policy
        policy.set_training_mode(True)
        errors = []
        for _ in range(epochs):
            order = self._rng.permutation(self._size)
            for begin in range(0, self._size, 256):
                rows = np.sort(order[begin : begin + 256])
                observations, _ = policy.obs_to_tensor({key: kept[rows] for key, kept in self._observations.items()})
                targets = torch.as_tensor(self._targets[rows], device=policy.device)
                returns = torch.as_tensor(self._returns[rows], device=policy.device)
                known = torch.as_tensor(rows >= value_from, device=policy.device).float()
                for_actions, for_values = policy.mlp_extractor(policy.extract_features(observations))
                mean, values = policy.action_net(for_actions), policy.value_net(for_values)[:, 0]
                # Speeds matter more per unit than turn rates, whose range is wider.
                errors_per_action = torch.nn.functional.smooth_l1_loss(mean, targets, reduction="none", beta=0.5)
                action_loss = (errors_per_action * errors_per_action.new_tensor([2.0, 1.0])).mean()
                value_loss = (known * (values - returns) ** 2).mean()
                loss = action_loss + 0.02 * value_loss
                self._optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                self._optimiser.step()
                errors.append(float(action_loss.detach()))
                self._progress(len(rows))
        policy.set_training_mode(False)
        return float(np.mean(errors[-(self._size // 256 + 1) :]))


def imitate(model: PPO, arenas: RoverArenaVecEnv, options: argparse.Namespace, done: int) -> None:
    """Teach the policy to drive as the scripted driver does, in the rounds after the first `done` ones."""
    rounds = options.imitation_rounds
    per_round = max(options.imitation_steps // (arenas.num_envs * rounds), 1) * arenas.num_envs
    # Every round collects, and then learns some epochs from all samples up to then.
    total = sum(per_round * (1 + options.imitation_epochs * kept) for kept in range(1, rounds - done + 1))
    logger = configure(str(options.output / "imitation"), ["tensorboard"])
    with tqdm(total=total, desc="imitation", unit=" samples", disable=options.quiet) as bar:
        imitation = Imitation(model, arenas, per_round * (rounds - done), options.seed + done, bar.update)
        for finished in range(done, rounds):
            success = imitation.collect(per_round // arenas.num_envs, driver_share=max(1.0 - finished / 2, 0.1))
            # Only the latest rounds show the returns of a policy like the present one.
            error = imitation.learn(options.imitation_epochs, max(finished - done - 2, 0) * per_round)
            samples = (finished + 1) * per_round
            logger.record("imitation/success_rate_while_collecting", success)
            logger.record("imitation/action_error", error)
            logger.dump(samples)
            bar.write(
                f"imitation {finished + 1}/{rounds}: {samples} samples, "
                f"success while collecting {100 * success:.0f} %, error {error:.4f}"
            )
            sys.stdout.flush()
            model.save(options.output / f"imitation_{finished + 1}_rounds.zip")
    logger.close()


def newest_checkpoint(folder: Path) -> tuple[Path, int | None]:
    """Find the checkpoint of PPO with the most steps, else that of the imitation with the most rounds.

    Returns
    -------
    Path, int | None
        The file, and the finished rounds of an imitation; None for a checkpoint of PPO.
    """
    for pattern in ("rover_*_steps.zip", "imitation_*_rounds.zip"):
        numbered = {int(path.stem.split("_")[1]): path for path in folder.glob(pattern)}
        if numbered:
            newest = max(numbered)
            return numbered[newest], newest if pattern.startswith("imitation") else None
    raise SystemExit(f"--resume: {folder} holds no checkpoint; train without --resume first")


def train(options: argparse.Namespace) -> None:
    """Train a policy and save it as `rover.zip` in the output folder."""
    options.output.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    arenas = RoverArenaVecEnv(options.arenas, episode_seeds(options.seed), options.renderer)
    rounds = options.imitation_rounds if options.imitation_steps else 0
    done = 0
    if options.resume:
        checkpoint, finished = newest_checkpoint(options.output)
        done = rounds if finished is None else finished
        going_on = f" with round {done + 1} of {rounds} of the imitation, on new samples only" if done < rounds else ""
        print(f"resuming from {checkpoint}{going_on}", flush=True)
        model = PPO.load(checkpoint, env=arenas, device=options.device, tensorboard_log=str(options.output))
        arenas.restart_seeds(episode_seeds(options.seed + done + model.num_timesteps))
    else:
        model = make_model(arenas, options)
    if done < rounds:
        imitate(model, arenas, options, done)
    remaining = options.steps - model.num_timesteps
    if remaining > 0:
        save = CheckpointCallback(max(options.checkpoint_steps // options.arenas, 1), str(options.output), "rover")
        model.learn(
            remaining,
            callback=save,
            reset_num_timesteps=False,
            progress_bar=not options.quiet,
            tb_log_name="ppo",
        )
    model.save(options.output / f"rover_{model.num_timesteps}_steps.zip")
    # The moments of the optimiser, two thirds of the file, matter to --resume only, which uses the checkpoint.
    model.policy.optimizer.state.clear()
    model.save(options.output / "rover.zip")
    arenas.close()
    print(f"saved {options.output / 'rover.zip'} after {model.num_timesteps} steps", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_train`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--arenas", type=number(int, 1), default=16, help="arenas simulated at once (default 16)")
    shared.add_argument("--renderer", choices=KINDS, default="auto", help="how camera images are made (default auto)")
    shared.add_argument("--device", default="cpu", help="device of the policy: cpu, cuda or auto (default cpu)")
    shared.add_argument(
        "--threads", type=int, default=0, help="threads of PyTorch; 1 is best on a busy machine (default 0: it decides)"
    )
    parser = argparse.ArgumentParser(
        prog="policy_train",
        description="Train the policy that drives the rover, or evaluate one. Without a subcommand it trains.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser(
        "train", parents=[shared], help="train a policy (the default)", description="Train a policy."
    )
    training.add_argument("--steps", type=int, default=800_000, help="steps of PPO, over all arenas (default 800000)")
    training.add_argument("--seed", type=int, default=0, help="seed of layouts and learning (default 0)")
    training.add_argument(
        "--output", type=Path, default=Path("runs/rover"), help="folder for model, checkpoints, TensorBoard logs"
    )
    training.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the output folder")
    training.add_argument(
        "--imitation-steps", type=int, default=84_000, help="steps of imitation before PPO; 0: none (default 84000)"
    )
    training.add_argument("--imitation-rounds", type=number(int, 1), default=7, help="rounds of imitation (default 7)")
    training.add_argument("--imitation-epochs", type=number(int, 1), default=3, help="epochs per round (default 3)")
    training.add_argument("--checkpoint-steps", type=number(int, 1), default=50_000, help="steps between checkpoints")
    training.add_argument("--quiet", action="store_true", help="no progress bars")
    train_evaluate.add_parser(commands, shared)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `policy_train`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in ("train", "evaluate", "-h", "--help"):
        words.insert(0, "train")
    options = make_parser().parse_args(words)
    if options.command == "train":
        train(options)
    else:
        train_evaluate.evaluate(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

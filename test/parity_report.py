# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The table of all combinations that were compared with Stable-Baselines3, as documentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from parity_cases import ACTIONS, ALGORITHMS, CHOICES, IMPOSSIBLE, ROBOTS, STACK, Case

HEAD = f"""\
# Parity with Stable-Baselines3

`make pages` writes this page if all combinations pass. Do not edit it.

Each cell is one policy that was saved, loaded with `load_policy` and driven beside the whole stack of
Stable-Baselines3: {ROBOTS} robots whose episodes end at different times, `DummyVecEnv`, the wrappers (named from the
environment outwards: `VecFrameStack` of {STACK} frames, `VecNormalize` with clipping),
`model.predict(deterministic=True)` with memory and masks. The policy of policy_node gets single frames, as sensors give
them, which are stacked, normalised and reset here. Every action was compared.

- **equal**: every choice is the same.
- **exact**: every number is the same, bit by bit.
- **≤ 1e-7** and so on: the largest error of any component, as a share of its action range. Allowed is 1e-5; it comes
  from the order in which sums are taken.

Differences that are meant: where the network gives NaN, and where a mask allows no choice at all, the action is marked
as unusable for that robot alone (NaN, -1); Stable-Baselines3 raises for the whole batch or takes a choice that is
forbidden.
"""
TAIL = """\

## What cannot be compared

| what | why |
|---|---|
| actions of SAC, TQC, CrossQ, TD3, DDPG other than Box | these algorithms refuse them |
| actions of DQN, QRDQN other than Discrete | these algorithms refuse them |
| actions of ARS other than Box, Discrete | the algorithm refuses them |
| Box actions of MaskablePPO | the algorithm refuses them: there is no choice to mask |
{impossible}
| images and Dict observations of CrossQ by default | it has an MlpPolicy only; compared with `NatureCNN` and \
`CombinedExtractor` as its extractor |
| images of ARS through a convolution | it has no CnnPolicy; compared flattened |
| `VecFrameStack`, `VecNormalize` over Discrete, MultiDiscrete, MultiBinary | the wrappers refuse them |
| `VecFrameStack` around `VecNormalize` over vectors of integers | the stack cuts the normalised numbers off to \
integers, so the policy was trained on little but zeros; `load_policy` refuses the pair |
| normalised images with the channels last through a convolution | once normalised, images are no longer transposed, \
and `NatureCNN` takes the height for the channels |
| `VecFrameStack` over images of floats without `channels_order="first"` | stacks side by side; \
`observations.<key>.stack` stacks channels |
| Discrete and MultiDiscrete observations that do not start at 0 | the one-hot code fails or is shifted; `load_policy` \
refuses them |
| MultiDiscrete and MultiBinary of several axes, Tuple, nested Dict | refused when the model is made |
| `deterministic=False` | drawn at random; each robot draws by itself here, where `predict` draws one coin (DQN, \
QRDQN) or one noise matrix (gSDE) for all |
"""


def write_report(cases: Sequence[Case], errors: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write the table, if it differs from the one that is there.

    Parameters
    ----------
    cases
        The rows.
    errors
        By row and action space, the largest error in shares of the action range.
    path
        Where to write.
    """
    parts = [HEAD]
    for algorithm in ALGORITHMS:
        rows = [case for case in cases if case.algorithm == algorithm]
        columns = [action for action in ACTIONS if any(action in case.actions for case in rows)]
        parts.append(f"\n## {algorithm}\n")
        parts.append(_line(["observation", "wrappers", "option", *columns]))
        parts.append("|---" * (3 + len(columns)) + "|")
        for case in rows:
            found = errors[str(case)]
            cells = [_cell(action, found[action]) if action in found else "" for action in columns]
            wrappers = "" if case.wrappers == "none" else case.wrappers
            parts.append(_line([case.observation, wrappers, case.option, *cells]))
    impossible = [
        f"| {observation} observations of {name} | {why} |" for (name, observation), why in IMPOSSIBLE.items()
    ]
    text = "\n".join(parts) + "\n" + TAIL.replace("{impossible}", "\n".join(impossible))
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _cell(action: str, error: float) -> str:
    """Say the order of the error only, so that the table stays the same from run to run."""
    if action in CHOICES:
        return "equal"
    return "exact" if error == 0 else next(f"≤ {limit}" for limit in ("1e-7", "1e-6", "1e-5") if error <= float(limit))

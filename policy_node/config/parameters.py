# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of a deployment: its name, type, default, range and description.

A section of the configuration is a dataclass, whose fields define the parameters. ROS parameters, files, tools and
`doc/configuration.md` share `PARAMETERS`, which is made from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from policy_node.config.catalogue import IMAGE_ENCODINGS, MESSAGE_TYPES
from policy_node.config.paths import expand
from policy_node.config.registry import ENGINES, POLICY_FORMATS

# Not below a namespace: `/NAME/...` is private to a node of that name.
CLAIMS_TOPIC = "/policy_node_claims"
# Functions between the layers of a training checkpoint, and after its last layer, by the names of PyTorch.
ACTIVATIONS = (
    *("identity", "elu", "relu", "tanh", "selu", "celu", "gelu", "silu", "mish", "leaky_relu", "sigmoid", "softplus"),
    "softsign",
)
# Severities of the log.
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
OUTPUT_ACTIVATIONS = ("identity", "tanh", "hardtanh")


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, type and rule."""

    #: Dotted name; `<key>` stands for each name in `observations.keys`, `<term>` for each in that key's `terms`, and
    #: `<command>` for each name in `actions.keys`.
    name: str
    #: `bool`, `int`, `float`, `str`, `list[str]`, `list[int]` or `list[float]`.
    type: str
    #: Value when the parameter is not given; None: it must be given.
    default: Any
    description: str
    #: The only values allowed, or a function that returns them; empty: any.
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    #: Lowest and highest number allowed, either may be infinite; None: any.
    limits: tuple[float, float] | None = None
    #: Whether only images have it.
    of_images: bool = False
    may_be_infinite: bool = False

    @property
    def unit(self) -> str:
        """SI unit, as the suffix of the name tells; empty where there is none."""
        return {"s": "s", "hz": "Hz"}.get(self.name.rpartition("_")[2], "")

    @property
    def allowed(self) -> tuple[str, ...]:
        """The only values allowed; empty: any."""
        return self.choices() if callable(self.choices) else self.choices

    @property
    def range_text(self) -> str:
        """The rule in words, for errors, descriptors and documentation."""
        if self.allowed:
            return "one of " + ", ".join(repr(choice) for choice in self.allowed)
        if self.limits is None:
            return ""
        low, high = self.limits
        return f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"


def parameter(default: Any, description: str, **rule: Any) -> Any:
    """Return the dataclass field of a parameter; the arguments are those of `Parameter`."""
    about = dict(default=default, description=description, **rule)
    return field(default=MISSING if default is None else default, metadata=about)


@dataclass(frozen=True)
class PolicyConfiguration:
    """The policy file, the engine that runs it, and a description of files that do not describe themselves."""

    path: str = parameter(
        None, "Policy file: absolute, `~`, relative to the working directory, or `package://PACKAGE/PATH`."
    )
    device: str = parameter("auto", "Where the tensors live: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:i`.")
    trusted: bool = parameter(
        False, "Whether policy files that can run code are loaded; bundles and ONNX are data only."
    )
    sha256: str = parameter("", "SHA-256 that the policy file must have, hexadecimal; empty: any.")
    vecnormalize: str = parameter(
        "", "File of `VecNormalize.save`, a path like `policy.path`; empty: observations are not normalised."
    )
    threads: int = parameter(1, "CPU threads of one inference.", limits=(1, 256))
    engine: str = parameter(
        "auto",
        "Engine of the network; `auto`: the fastest at configure of those that act as the policy does.",
        choices=("auto", *ENGINES.names),
    )
    precision: str = parameter(
        "float32",
        "Least precision that an engine may compute in; below float32 actions differ in the third digit.",
        choices=("float32", "bfloat16", "float16"),
    )
    inference: str = parameter(
        "tick",
        "Where the policy runs: within each `tick`, or in the `background`, for one that takes longer than a control "
        "period; the tick then goes on with the newest plans.",
        choices=("tick", "background"),
    )
    task: tuple[str, ...] = parameter(
        (),
        "For a policy that takes a text: what the robots are to do, one text for all or one per entry of `robots`.",
    )
    task_topic: str = parameter(
        "",
        "For such a policy: std_msgs/String topic, below the robot's namespace, of newer texts; each begins a new "
        "episode of its robot, and a plan of the text before is dropped. Only publishers with transient local "
        "durability are heard, so that a node that starts later has the text, too. Empty: none.",
    )
    max_batch: int = parameter(
        0,
        "Most robots in one inference, more take several inferences; 0: limited by the memory.",
        limits=(0, 1_000_000),
    )
    format: str = parameter(
        "auto", "Format of the policy file; `auto`: by its content.", choices=("auto", *POLICY_FORMATS.names)
    )
    description: str = parameter(
        "",
        "Description of the trainer that fills in what the parameters leave out: `auto` for that in the policy file "
        "or beside it, or a path like `policy.path`; empty: none.",
    )
    memory: tuple[str, ...] = parameter(
        (),
        "For a file that does not describe itself: each memory as `input=output`, fed back per robot, zeros at the "
        "start; where the file does not say its shape as `input=output:1,-1,64`, with -1 for the robots.",
    )
    lengths: str = parameter(
        "", "For such a file: input that takes how many steps of its history each robot has seen since its reset."
    )
    mask: str = parameter(
        "", "For such a file: input that takes which steps of its history each robot has seen, true where it has."
    )
    padding: str = parameter(
        "start",
        "For such a file, with `lengths` or `mask`: where the steps before the reset are in a history.",
        choices=("start", "end"),
    )
    action: str = parameter("", "For such a file: output with the action; empty: the first that is not a memory.")
    horizon: int = parameter(
        0,
        "For such a file: number of future actions that it gives, `[robots, horizon, components]`; 0: as its action "
        "shows, 1 where it has no such axis.",
        limits=(0, 100_000),
    )
    discrete: int = parameter(
        0, "For such a file: number of logits of an action that is one choice; 0: continuous.", limits=(0, 100_000)
    )
    low: tuple[float, ...] = parameter(
        (), "For such a file: lowest action, clipped as in training; one number or one per component, empty: none."
    )
    high: tuple[float, ...] = parameter(
        (), "For such a file: highest action, clipped as in training; one number or one per component, empty: none."
    )
    activation: str = parameter(
        "", "For a training checkpoint: function between its layers.", choices=("", *ACTIVATIONS)
    )
    output_activation: str = parameter(
        "",
        "For a training checkpoint: function after its last layer; `tanh` and `hardtanh` (clipping to -1..1) are "
        "rescaled to `low` and `high`.",
        choices=("", *OUTPUT_ACTIVATIONS),
    )


@dataclass(frozen=True)
class ChunkConfiguration:
    """The use of plans: the actions of a policy with a horizon, or the last one of a policy in the background."""

    step_s: float = parameter(
        0.0, "Time from one action of a plan to the next, as in training; 0: the control period.", limits=(0.0, 60.0)
    )
    replan_every: int = parameter(
        0, "Steps of a plan after which a robot gets the next one; 0: as soon as possible.", limits=(0, 100_000)
    )
    aggregate: str = parameter(
        "newest",
        "How a command follows from overlapping plans: the `newest` alone, an `ensemble` weighted as in ACT, a linear "
        "`blend` from the plans before, or the newest of a policy that is given the `prefix` that is executed "
        "meanwhile.",
        choices=("newest", "ensemble", "blend", "prefix"),
    )
    ensemble_decay: float = parameter(
        0.01,
        "For `ensemble`: the plan number i of those that cover the present, from the oldest, weighs "
        "exp(-`ensemble_decay` i).",
        limits=(-10.0, 10.0),
    )
    blend_s: float = parameter(
        0.1, "For `blend`: time in which a plan replaces the one before it.", limits=(0.001, 60.0)
    )
    prefix_input: str = parameter(
        "",
        "For `prefix`: input of the policy that takes the rest of the previous plan, `[horizon, components]` from the "
        "time of the observation on; zeros without one.",
    )
    delay_input: str = parameter(
        "",
        "For `prefix`: input of the policy that takes how many steps of it are executed meanwhile; 0 without a "
        "previous plan.",
    )
    nearest: tuple[str, ...] = parameter(
        (),
        "Components of the action that are not interpolated between two steps, such as grippers: by their names in "
        "`action.joints` or `action.fields`, or by their numbers from 0.",
    )
    on_exhausted: str = parameter(
        "stop",
        "What a robot gets after the last action of its plan: the safe command, or that action for `hold_s`.",
        choices=("stop", "hold"),
    )
    hold_s: float = parameter(0.5, "How long `hold` repeats the last action of a plan.", limits=(0.0, 60.0))
    max_age_s: float = parameter(
        0.0,
        "Largest time from the observation of a plan to a command; 0: the duration of the plan, or 1 s for a policy "
        "without a horizon.",
        limits=(0.0, 3600.0),
    )
    stagger: int = parameter(
        1,
        "Parts of the fleet that are planned one after the other, so that each inference is shorter.",
        limits=(1, 10_000),
    )


@dataclass(frozen=True, kw_only=True)
class ReadingChoices:
    """What is read from a message of a type; a message type takes some of these parameters."""

    field: str = parameter(
        "",
        "Dotted path to the numbers in the message, of a JointState `position`, `velocity` or `effort`; empty: the "
        "type's usual vector.",
    )
    fields: tuple[str, ...] = parameter(
        (),
        "Several such paths instead of `field`, one after the other. A path may name elements of arrays, as in "
        "`motor_state[0].q`, or `motor_state[0:12].q` for 12.",
    )
    joints: tuple[str, ...] = parameter(
        (), "Joints to read from a JointState, in this order; empty: all, as published."
    )
    out_of_range: tuple[float, ...] = parameter(
        (),
        "What distances of a LaserScan or Range become that are NaN, +inf or outside of its limits; empty: the largest "
        "distance, or the smallest for what is below it (REP 117). Also cells without a point of a PointCloud2 (empty: "
        "0), and unknown ones of an OccupancyGrid.",
    )
    rays: int = parameter(
        0,
        "Number of directions in which the distances of a LaserScan are observed; 0: its rays, as published.",
        limits=(0, 100_000),
    )
    angle_min: float = parameter(
        0.0,
        "First of these directions in radians; 0.0 for both `angle_min` and `angle_max`: those of each message's first "
        "and last ray.",
        limits=(-10.0, 10.0),
    )
    angle_max: float = parameter(
        0.0, "Last of these directions in radians, less than a turn after the first.", limits=(-10.0, 10.0)
    )
    reduce: str = parameter(
        "min", "What is observed of the rays around a direction.", choices=("min", "mean", "nearest")
    )
    projection: str = parameter(
        "points",
        "What is observed of a PointCloud2: `[points, fields]`, a `map` seen from above with the largest value in each "
        "cell (also of `occupied` and `count`), or a `range_image` with the nearest point in each direction (also its "
        "`range`).",
        choices=("points", "map", "range_image"),
    )
    subsample: str = parameter(
        "farthest",
        "Which points of a PointCloud2 with too many are observed: each the `farthest` from those before, or `random` "
        "ones. Zeros follow where there are too few; the field `mask` is 1 for points.",
        choices=("farthest", "random"),
    )
    bounds: tuple[float, ...] = parameter(
        (),
        "Lowest and highest x, y and z (z may be left out) of the points of a PointCloud2 that count; of a "
        "`range_image` lowest and highest azimuth and elevation in radians.",
    )
    padding: str = parameter(
        "refuse",
        "What becomes of a list of another length than that of the observation: it is refused, or cut or filled up "
        "with `zeros`; with `zeros_and_count` the last number says how many there were before.",
        choices=("refuse", "zeros", "zeros_and_count"),
    )
    pose_as: str = parameter(
        "pose",
        "What is observed of a PoseStamped: position and orientation (7 numbers), one of them, or the yaw instead of "
        "the orientation.",
        choices=("pose", "position", "orientation", "yaw", "position_yaw"),
    )
    base_frame: str = parameter(
        "",
        "Frame, such as `base_link`, in which a PoseStamped is observed, by way of tf; `{robot}` is the robot's "
        "name. Empty: as published, in any frame. Needs tf2_ros.",
    )
    encoding: str = parameter(
        "",
        "Pixel encoding that the policy was trained on; empty: the default of its channels and dtype.",
        choices=lambda: ("", *(name for name, found in IMAGE_ENCODINGS.items() if not found.is_mosaic)),
        of_images=True,
    )
    resize: str = parameter(
        "area",
        "How images of another size were resized for training: averaged (OpenCV's INTER_AREA), `nearest` pixels, or "
        "averaged after a `crop` to the policy's aspect around the middle, or into an image of the policy's aspect "
        "with a `pad` of zeros (of depth: `hole_value`) around it.",
        choices=("area", "nearest", "crop", "pad"),
        of_images=True,
    )
    depth_scale: float = parameter(
        0.001, "Metres in a unit of 16UC1 images as the camera publishes them.", limits=(1e-9, 1e3), of_images=True
    )
    hole_value: tuple[float, ...] = parameter(
        (),
        "What pixels of depth without a distance (0, NaN, infinite) become, in the unit of the policy's encoding; "
        "empty: 0, but +inf the upper bound of the observation and -inf the lower one (REP 118).",
        of_images=True,
    )

    @property
    def choices(self) -> dict[str, Any]:
        """The choices by the name of their parameter."""
        return {name: getattr(self, name) for name in CHOICES}

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of `fields`, or that of `field`, their ranges written out; none when neither is given."""
        return expand(self.fields or ((self.field,) if self.field else ()))


# The default of each parameter that chooses from a message.
CHOICES: dict[str, Any] = {each.name: each.default for each in fields(ReadingChoices)}
# Of these, the parameters of images, which are no terms.
OF_IMAGES = frozenset(each.name for each in fields(ReadingChoices) if each.metadata.get("of_images"))


@dataclass(frozen=True, kw_only=True)
class SourceConfiguration(ReadingChoices):
    """The numbers that are read from one topic of every robot; `key` is the observation that they belong to."""

    key: str
    topic: str = parameter(None, "Topic, below the robot's namespace; with a leading `/` one topic for all robots.")
    type: str = parameter(None, "Message type, such as `sensor_msgs/msg/Image`.")
    frame: str = parameter(
        "",
        "Frame whose pose in `base_frame` is observed; `topic` then only names it in recordings. Empty: the pose that "
        "`topic` has.",
    )
    depth: int = parameter(
        0,
        "Depth of the subscription's queue; 0: 2 for images, 10 for other types. A sensor much faster than the "
        "slowest one needs as many as it publishes during the slowest one's delay.",
        limits=(0, 1000),
    )
    reliability: str = parameter(
        "best_effort", "Reliability asked of the publisher.", choices=("best_effort", "reliable")
    )
    durability: str = parameter(
        "volatile",
        "Durability asked of the publisher; with `transient_local`, which needs reliability `reliable`, a message that "
        "was published before the node started arrives, too.",
        choices=("volatile", "transient_local"),
    )
    max_age_s: float = parameter(
        0.0,
        "For a topic that is published seldom, as an operator's: its newest reading is used while it is at most so "
        "old, regardless of the other stamps; `.inf` for what is published once, as a goal, and does not age; 0: the "
        "topic is synchronised with the others.",
        limits=(0.0, math.inf),
        may_be_infinite=True,
    )
    transform_max_age_s: float = parameter(
        0.0,
        "For a pose in `base_frame` that is published once (`max_age_s: .inf`): largest age of the transform by which "
        "it is computed. Otherwise `max_age_s` limits both.",
        limits=(0.0, 3600.0),
    )
    stamp: str = parameter(
        "header",
        "Time of a reading: the stamp in its header (without one as `source`), or the time at which it was received "
        "(`receive`) or published (`source`), under simulated time that of the tick that took it.",
        choices=("header", "receive", "source"),
    )
    stamp_offset_s: float = parameter(
        0.0, "Added to the time of every reading, for a clock that is behind by as much.", limits=(-1e10, 1e10)
    )
    when_silent: str = parameter(
        "stale",
        "What silence of the topic means: `stale` data, or for a sensor that publishes only while it measures "
        "something, as a contact sensor does, a reading of `zeros` for as long as its publisher is there.",
        choices=("stale", "zeros"),
    )

    @property
    def name(self) -> str:
        """Name in errors and diagnostics; its parameters are `observations.NAME`."""
        return self.key

    @property
    def is_image(self) -> bool:
        """Whether the readings are images."""
        return is_image(self.type)

    @property
    def reading_max_age_s(self) -> float:
        """Largest age of its readings: that of the transform where the message does not age."""
        return self.transform_max_age_s or self.max_age_s

    @property
    def is_synchronised(self) -> bool:
        """Whether its readings must fit the others' stamps."""
        return self.max_age_s == 0.0 and not self.may_be_silent

    @property
    def may_be_silent(self) -> bool:
        """Whether its silence is a reading of zeros."""
        return self.when_silent == "zeros"


@dataclass(frozen=True, kw_only=True)
class TermConfiguration(SourceConfiguration):
    """One part of an observation: `clip(value - default) * scale + offset`; not every kind has a topic."""

    term: str
    topic: str = parameter("", "As for an observation; terms of one topic share it.")
    type: str = parameter("", "As for an observation, but no image.")
    kind: str = parameter(
        "sensor",
        "What the term gives: the numbers of a message, gravity's direction in the body frame from a quaternion, a "
        "one for a category among zeros, the policy's last action, another output of its last step, or by the time "
        "since the robot's episode began its `step`, the `phase` of a gait clock, or the row of a `motion` file.",
        choices=(
            "sensor",
            "projected_gravity",
            "one_hot",
            "previous_action",
            "policy_output",
            "step",
            "phase",
            "motion",
        ),
    )
    stack: int = parameter(
        0, "Time steps of this term in the stack; 0: those of the observation, 1: the newest only.", limits=(0, 1000)
    )
    categories: int = parameter(
        0, "For `one_hot`: how many categories there are, 0 to `categories` - 1.", limits=(0, 100_000)
    )
    output: str = parameter("", "For `policy_output`: name of the output of the network.")
    period_s: float = parameter(0.0, "For `phase`: period of the clock, more than 0.", limits=(0.0, 3600.0))
    phase_as: str = parameter(
        "sin_cos",
        "For `phase`: what it gives of every phase: all sines, then all cosines, one of the two, or the share of the "
        "period that has passed, 0 to 1, as a `number`.",
        choices=("sin_cos", "sin", "cos", "number"),
    )
    stop_below: float = parameter(
        0.0,
        "For `phase`: norm of the commanded velocity below which the clock stands, see `stop_at`; `topic`, `type` and "
        "`field` or `fields` tell where the velocity is read. 0: never, and there is no topic.",
        limits=(0.0, math.inf),
    )
    stop_at: tuple[float, ...] = parameter(
        (),
        "For `phase` with `stop_below`: share of the period at which the phases stand meanwhile, one number or one per "
        "phase; empty: all numbers of the term are 0.",
    )
    stop_restarts: bool = parameter(
        False, "For `phase` with `stop_below`: whether the clock begins again after a stop; else it goes on meanwhile."
    )
    path: str = parameter(
        "", "For `motion`: CSV or NPZ file with a row per step, a path like `policy.path`; its last row stays."
    )
    arrays: tuple[str, ...] = parameter(
        (),
        "For `motion`: arrays of the NPZ, or columns of the CSV by their names in its first line or by their numbers "
        "from 0 (`7`, or `7:36` for 7 to 35), one after the other; empty: all columns of a CSV.",
    )
    default: tuple[float, ...] = parameter(
        (), "Subtracted first, such as a default pose; one number or one per component, empty: 0."
    )
    clip: tuple[float, ...] = parameter((), "Lowest and highest value, before `scale`; empty: none.")
    scale: tuple[float, ...] = parameter((), "Multiplied after `clip`; one number or one per component, empty: 1.")
    offset: tuple[float, ...] = parameter(
        (),
        "Added last; one number or one per component, empty: 0. For `phase`: the share of the period that each phase "
        "is ahead of the clock, one phase per number, empty: one phase.",
    )

    @property
    def name(self) -> str:
        """Name in errors and diagnostics; its parameters are `observations.NAME`."""
        return f"{self.key}.{self.term}"


@dataclass(frozen=True, kw_only=True)
class ObservationConfiguration(SourceConfiguration):
    """One observation of every robot: from one topic, or made of terms and then without topic and type."""

    stack: int = parameter(1, "Time steps stacked.", limits=(1, 1000))
    stack_as: str = parameter(
        "vecframestack",
        "Layout of the stack. SB3's VecFrameStack joins whole steps, zeros before a reset; Isaac Lab, for vectors, "
        "joins all steps of a term and then those of the next, before a reset as the first step after it.",
        choices=("vecframestack", "isaac_lab"),
    )
    stack_order: str = parameter(
        "oldest_first", "Order of the steps in the stack.", choices=("oldest_first", "newest_first")
    )
    stack_grouping: str = parameter(
        "",
        "Whether the stack joins all terms of a step and then those of the next, or all steps of a term and then "
        "those of the next; empty: as `stack_as` says.",
        choices=("", "by_time", "by_term"),
    )
    history: int = parameter(0, "Time steps on a separate first axis, oldest first; 0: no axis.", limits=(0, 10_000))
    history_start: str = parameter(
        "zeros",
        "Steps of a history before a reset: `zeros`, or `first`, the first step after it, as LeRobot has them.",
        choices=("zeros", "first"),
    )
    input: str = parameter("", "Input of the network that takes the observation; empty: the one of the same name.")
    shape: tuple[int, ...] = parameter(
        (), "Input shape of one robot with its stack or history, where the file does not say it.", limits=(1, 1_000_000)
    )
    terms: tuple[TermConfiguration, ...] = parameter(
        (),
        "Names of the terms that the observation is made of, one after the other; it then has no topic.",
        type="list[str]",
    )


@dataclass(frozen=True)
class SynchronisationConfiguration:
    """The readings that make a usable set."""

    slop_s: float = parameter(0.05, "Largest spread of the stamps in one robot's set of readings.", limits=(0.0, 10.0))
    max_age_s: float = parameter(0.2, "Largest age of the oldest reading in the set at the tick.", limits=(0.001, 60.0))


@dataclass(frozen=True)
class CommandConfiguration:
    """The commands of one topic of every robot, and their replacement when the robot's data are not good."""

    topic: str = parameter(None, "Topic of the commands, below the robot's namespace.")
    type: str = parameter(None, "Message type of the commands: one of the command types, or any other with `fields`.")
    fields: tuple[str, ...] = parameter(
        (),
        "Path to the field of each component of the command, such as `linear.x` of a Twist, `motor_cmd[0].q`, or "
        "`motor_cmd[0:12].q` for 12 components; required for types without a record.",
    )
    constants: tuple[str, ...] = parameter(
        (),
        "Fields that have the same value in every command, each as `path=value`, such as `motor_cmd[0:12].kp=25.0` or "
        "`effort=[0.5, 0.5]`; the value is written as in YAML.",
    )
    joints: tuple[str, ...] = parameter(
        (), "Joint of a JointState or JointTrajectory for each component of the command; required for a joint command."
    )
    field: str = parameter("position", "What a JointState commands.", choices=("position", "velocity", "effort"))
    frame_id: str = parameter("", "frame_id of stamped commands.")
    time_from_start_s: float = parameter(
        0.0, "When the first point of a JointTrajectory is to be reached; 0: one control period.", limits=(0.0, 60.0)
    )
    points: int = parameter(
        1,
        "Number of points of a JointTrajectory, `time_from_start_s` apart: the command and those that follow it in the "
        "robot's plan. More than 1 needs a policy that gives plans.",
        limits=(1, 1000),
    )
    components: tuple[int, ...] = parameter(
        (),
        "Component of the policy's action, from 0, for each component of the command; empty: all of them, and with "
        "several topics the next ones, as many as `fields` or `joints` name.",
        limits=(0, 1_000_000),
    )
    scale: tuple[float, ...] = parameter(
        (), "Factor of a continuous action; one number or one per component, empty: 1."
    )
    offset: tuple[float, ...] = parameter(
        (), "Added after `scale`, such as a default pose; one number or one per component, empty: 0."
    )
    low: tuple[float, ...] = parameter(
        (), "Lowest command, after `offset`; one number or one per component, empty: none."
    )
    high: tuple[float, ...] = parameter(
        (), "Highest command, after `offset`; one number or one per component, empty: none."
    )
    when_stale: str = parameter(
        "stop",
        "What a robot without good data gets: the safe command, its last command for `hold_s`, or nothing.",
        choices=("stop", "hold", "silent"),
    )
    hold_s: float = parameter(
        0.5, "How long `hold` repeats the last command before it stops the robot.", limits=(0.0, 60.0)
    )
    safe_command: tuple[float, ...] = parameter(
        (),
        "The safe command; empty: zeros for a Twist. Any other type needs it or `safe_position_topic`, unless "
        "`when_stale` is `silent`.",
    )
    safe_position_topic: str = parameter(
        "",
        "For position commands: JointState topic, below the robot's namespace, of the current position, which is "
        "then the safe command; it stays constant while the robot is stopped. An observation of that topic says how it "
        "is subscribed and stamped.",
    )
    safe_position_joints: tuple[str, ...] = parameter(
        (), "Joint of each component in that topic; empty: `action.joints`."
    )
    max_rate: tuple[float, ...] = parameter(
        (),
        "Largest change of the command per second; one number or one per component, empty: any. Safe commands are "
        "sent at once.",
        limits=(1e-9, 1e9),
    )
    #: Name in `actions.keys`; empty for the only topic.
    key: str = ""

    @property
    def prefix(self) -> str:
        """Beginning of the names of its parameters."""
        return f"actions.{self.key}" if self.key else "action"

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the components of a command; empty where they have none."""
        return self.fields or self.joints


@dataclass(frozen=True)
class ActionConfiguration(CommandConfiguration):
    """The command of every robot; of several topics their components one after the other, without topic and type."""

    table: tuple[float, ...] = parameter((), "For a Discrete action: one command per action, row after row.")
    publish_rate_hz: float = parameter(
        0.0,
        "Rate of the commands, a multiple of `control_rate_hz`: those between two ticks follow from "
        "`interpolation`; 0: one command per tick.",
        limits=(0.0, 10_000.0),
    )
    interpolation: str = parameter(
        "linear",
        "With `publish_rate_hz`: `linear` approaches each command of the policy within a control period, `hold` "
        "repeats it. Safe commands are sent at once.",
        choices=("linear", "hold"),
    )
    ramp_s: float = parameter(
        0.0, "Duration of the ramp from the safe command after activation or recovery.", limits=(0.0, 60.0)
    )
    deadline_s: float = parameter(
        0.0,
        "Deadline and lease of liveliness (at least 0.1 s) that the command topics offer; 0: three control periods.",
        limits=(0.0, 3600.0),
    )


@dataclass(frozen=True)
class RecordingConfiguration:
    """Where bags of observations and commands are written."""

    path: str = parameter(
        "", "Folder in which each activation records a bag of observations and commands; empty: nothing is recorded."
    )
    max_bag_duration_s: float = parameter(
        0.0, "Time after which a bag continues in another file; 0: never.", limits=(0.0, 1e7)
    )
    max_bag_size_mb: float = parameter(
        0.0, "Size of a file in MB (10^6 bytes) from which a bag continues in another one; 0: any.", limits=(0.0, 1e9)
    )


@dataclass(frozen=True)
class RealtimeConfiguration:
    """Real-time settings of the tick thread and of the interpreter."""

    priority: int = parameter(
        0,
        "Real-time priority (SCHED_FIFO) of the tick, its decoding threads and its watchdog; 0: none. Needs the "
        "permission of the system.",
        limits=(0, 99),
    )
    cpus: tuple[int, ...] = parameter(
        (), "CPUs of the tick and its decoding threads; empty: any.", limits=(0, math.inf)
    )
    freeze_gc: bool = parameter(
        True, "Whether the garbage collector skips what configure made, as a full collection takes several ticks."
    )
    switch_interval_s: float = parameter(
        0.0005, "Time after which another Python thread must yield to the tick thread.", limits=(0.000_01, 1.0)
    )


def is_image(type_name: str) -> bool:
    """Whether messages of a type are images."""
    return type_name in MESSAGE_TYPES and MESSAGE_TYPES[type_name].is_image


def _parameters(section: type, prefix: str) -> list[Parameter]:
    """Return the parameters that the fields of a section define; their types are those of ROS, unless given."""
    found = []
    # The topic comes before what is read from it.
    for each in sorted(fields(section), key=lambda each: each.name not in ("topic", "type")):
        if each.metadata:
            kind = str(each.type).replace("tuple[", "list[").replace(", ...", "")
            found.append(Parameter(**{"name": prefix + each.name, "type": kind, **each.metadata}))
    return found


def _term_parameters() -> list[Parameter]:
    """Return the parameters of a term; those that an observation has, too, are described there."""
    described = {f"{TERM}{name}" for name in TermConfiguration.__annotations__}
    return [
        each if each.name in described else replace(each, description="As for an observation.")
        for each in _parameters(TermConfiguration, TERM)
        if not each.of_images
    ]


OBSERVATION = "observations.<key>."
COMMAND = "actions.<command>."
TERM = "observations.<key>.<term>."

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("control_rate_hz", "float", None, "Rate of the control tick.", limits=(0.1, 1000.0)),
    Parameter("robots", "list[str]", None, "Namespaces of the robots, one row of the batch each."),
    Parameter(
        "shard",
        "str",
        "",
        "`i/K`: this node drives the i-th of K parts of `robots`, counted from 0; empty: all of them.",
    ),
    Parameter(
        "claims_topic",
        "str",
        CLAIMS_TOPIC,
        "Topic on which nodes claim their robots, so that only one commands each: the same for all nodes that could "
        "command one robot.",
    ),
    Parameter("autostart", "bool", True, "Configure and activate by itself at start."),
    Parameter(
        "bond_period_s",
        "float",
        0.0,
        "Period of the heartbeats of a bond with Nav2's lifecycle_manager while the node is active; 0: no bond. Needs "
        "bondpy.",
        limits=(0.0, 10.0),
    ),
    Parameter(
        "exit_on_failure",
        "bool",
        False,
        "End the process with status 1 when a transition or the control loop fails, so that respawn or systemd starts "
        "it again; else it stays alive, to be configured again.",
    ),
    Parameter(
        "log_level",
        "str",
        "",
        "Lowest severity that this node logs, without the other loggers of its process; empty: that of ROS.",
        choices=("", *LOG_LEVELS),
    ),
    *_parameters(PolicyConfiguration, "policy."),
    *_parameters(ChunkConfiguration, "chunk."),
    Parameter(
        "observations.keys",
        "list[str]",
        None,
        "Names of the observations; with a Dict space its keys, else any one name.",
    ),
    *_parameters(ObservationConfiguration, OBSERVATION),
    *_term_parameters(),
    *_parameters(SynchronisationConfiguration, "synchronisation."),
    *_parameters(ActionConfiguration, "action."),
    Parameter(
        "actions.keys",
        "list[str]",
        (),
        "Names of the command topics of a robot that has several, such as those of an arm and a gripper; empty: one, "
        "described by `action`.",
    ),
    *(
        replace(each, description=f"As `action.{each.name.removeprefix(COMMAND)}`.")
        for each in _parameters(CommandConfiguration, COMMAND)
    ),
    *_parameters(RecordingConfiguration, "record."),
    Parameter(
        "watchdog.timeout_s",
        "float",
        0.0,
        "A tick that takes longer counts as hanging, and the robots get their safe commands; 0: "
        "`synchronisation.max_age_s`, at least two control periods.",
        limits=(0.0, 60.0),
    ),
    *_parameters(RealtimeConfiguration, "realtime."),
)

# The parameters of a topic. An observation that is made of terms has none of these; each term has its own.
SOURCE_PARAMETERS = tuple(each.name for each in _parameters(SourceConfiguration, OBSERVATION))

# Parameters of `action` that each of several command topics has for itself.
COMMAND_PARAMETERS = tuple(each.name for each in _parameters(CommandConfiguration, "action."))

# Parameters that ROS itself gives every node.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_PARAMETER_PREFIXES = ("qos_overrides./clock.", "qos_overrides./parameter_events.")

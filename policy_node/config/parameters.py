# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of a deployment: its name, type, default, range and what it does.

`PARAMETERS` is the one definition that ROS parameters, files, tools and `doc/configuration.md` share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policy_node.config.catalogue import COMMAND_TYPES, IMAGE_ENCODINGS, Choices
from policy_node.config.registry import ENGINES, POLICY_FORMATS

STACKS = ("vecframestack", "isaac_lab")
PRECISIONS = ("float32", "bfloat16", "float16")
TERM_KINDS = ("sensor", "projected_gravity", "one_hot", "previous_action")
WHEN_SILENT = ("stale", "zeros")


@dataclass(frozen=True)
class Parameter:
    """One parameter: its dotted name, type and rule.

    Attributes
    ----------
    name
        Dotted name; `<key>` stands for each name in `observations.keys`, `<term>` for each in that key's `terms`.
    type
        `bool`, `int`, `float`, `str`, `list[str]`, `list[int]` or `list[float]`.
    default
        Value when the parameter is not given; None when it must be given.
    description
        What it does, in one sentence.
    unit
        SI unit, empty where there is none.
    allowed
        The only values allowed, when it is a choice.
    minimum, maximum
        Inclusive range of a number.
    """

    name: str
    type: str
    default: Any
    description: str
    unit: str = ""
    allowed: Sequence[str] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def range_text(self) -> str:
        """The rule in words, for errors, descriptors and documentation."""
        if self.allowed:
            return "one of " + ", ".join(repr(choice) for choice in self.allowed)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"{self.minimum:g} or more"
        return ""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("control_rate_hz", "float", None, "Rate of the control tick.", "Hz", minimum=0.1, maximum=1000.0),
    Parameter("robots", "list[str]", None, "Namespaces of the robots, one row of the batch each."),
    Parameter(
        "shard",
        "str",
        "",
        "`i/K`: this node drives the i-th of K parts of `robots`, counted from 0; empty: all of them.",
    ),
    Parameter("autostart", "bool", True, "Configure and activate by itself at start."),
    Parameter(
        "policy.path",
        "str",
        None,
        "Policy file: absolute, `~`, relative to the working directory, or `package://PACKAGE/PATH`.",
    ),
    Parameter(
        "policy.device",
        "str",
        "auto",
        "Where the tensors live: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:i`.",
    ),
    Parameter(
        "policy.trusted",
        "bool",
        False,
        "Whether policy files that can run code when they are loaded are loaded; bundles and ONNX are data only.",
    ),
    Parameter("policy.sha256", "str", "", "SHA-256 that the policy file must have, hexadecimal; empty: any."),
    Parameter(
        "policy.vecnormalize",
        "str",
        "",
        "The file that `VecNormalize.save` wrote, a path like `policy.path`; empty: observations go in as they are.",
    ),
    Parameter("policy.threads", "int", 1, "CPU threads of one inference.", minimum=1, maximum=256),
    Parameter(
        "policy.engine",
        "str",
        "auto",
        "What runs the network; `auto`: at configure the fastest of those that act as the policy does is measured.",
        allowed=("auto", *ENGINES.names),
    ),
    Parameter(
        "policy.precision",
        "str",
        "float32",
        "Least precision that an engine may compute in; below float32 actions differ in the third digit.",
        allowed=PRECISIONS,
    ),
    Parameter(
        "policy.compile",
        "bool",
        False,
        "Whether `auto` may compile the policy with AOTInductor, which takes a C++ compiler and up to minutes, once.",
    ),
    Parameter(
        "policy.max_batch",
        "int",
        0,
        "Most robots in one inference, more are inferred in several; 0: as many as fit into the memory.",
        minimum=0,
        maximum=1_000_000,
    ),
    Parameter(
        "policy.format",
        "str",
        "auto",
        "Format of the policy file; `auto`: by its suffix.",
        allowed=("auto", *POLICY_FORMATS.names),
    ),
    Parameter(
        "policy.memory",
        "list[str]",
        (),
        "For a file that does not describe itself: each memory as `input=output`, fed back per robot, zeros at the "
        "start; where the file does not say its shape as `input=output:1,-1,64`, with -1 for the robots.",
    ),
    Parameter(
        "policy.lengths",
        "str",
        "",
        "For the same: input that takes how many steps of its history each robot has seen since its reset.",
    ),
    Parameter(
        "policy.mask",
        "str",
        "",
        "For the same: input that takes which steps of its history each robot has seen, true where it has.",
    ),
    Parameter(
        "policy.padding",
        "str",
        "start",
        "For the same, with `lengths` or `mask`: where the steps before the reset are in a history.",
        allowed=("start", "end"),
    ),
    Parameter("policy.action", "str", "", "For the same: output with the action; empty: the first that is no memory."),
    Parameter(
        "policy.discrete",
        "int",
        0,
        "For the same: number of choices when the action is one of as many logits; 0: continuous.",
        minimum=0,
        maximum=100_000,
    ),
    Parameter(
        "policy.low",
        "list[float]",
        (),
        "For the same: lower bounds that training clipped the action to, one number or one per component; empty: none.",
    ),
    Parameter(
        "policy.high",
        "list[float]",
        (),
        "For the same: upper bounds that training clipped the action to, one number or one per component; empty: none.",
    ),
    Parameter(
        "observations.keys",
        "list[str]",
        None,
        "Names of the observations; with a Dict space its keys, else any one name.",
    ),
    Parameter(
        "observations.<key>.topic",
        "str",
        None,
        "Topic, below the robot's namespace; with a leading `/` one topic for all robots.",
    ),
    Parameter("observations.<key>.type", "str", None, "Message type, such as `sensor_msgs/msg/Image`."),
    Parameter(
        "observations.<key>.field",
        "str",
        "",
        "Dotted path to the numbers in the message, of a JointState `position`, `velocity` or `effort`; empty: the "
        "type's usual vector.",
    ),
    Parameter(
        "observations.<key>.fields",
        "list[str]",
        (),
        "Several such paths instead of `field`, one after the other.",
    ),
    Parameter(
        "observations.<key>.joints",
        "list[str]",
        (),
        "Joints to read from a JointState, in this order; empty: all, as published.",
    ),
    Parameter(
        "observations.<key>.encoding",
        "str",
        "",
        "Pixel encoding that the policy was trained on; empty: the first that has its channels and dtype.",
        allowed=Choices(IMAGE_ENCODINGS, ""),
    ),
    Parameter(
        "observations.<key>.stack",
        "int",
        1,
        "Time steps stacked, oldest first.",
        minimum=1,
        maximum=1000,
    ),
    Parameter(
        "observations.<key>.stack_as",
        "str",
        "vecframestack",
        "Whose stack it is. SB3's VecFrameStack joins whole steps, zeros before a reset; Isaac Lab, for vectors, joins "
        "all steps of a term and then those of the next, before a reset as the first step after it.",
        allowed=STACKS,
    ),
    Parameter(
        "observations.<key>.history",
        "int",
        0,
        "Time steps on an axis of their own, `[history, ...]`, oldest first, zeros before a reset; 0: no such axis.",
        minimum=0,
        maximum=10_000,
    ),
    Parameter(
        "observations.<key>.input",
        "str",
        "",
        "Input of the network that takes the observation; empty: the one of the same name.",
    ),
    Parameter(
        "observations.<key>.depth",
        "int",
        0,
        "Depth of the subscription's queue; 0: 2 for images, 10 for other types. A sensor much faster than the slowest "
        "one needs as many as it publishes within the slowest one's delay.",
        minimum=0,
        maximum=1000,
    ),
    Parameter(
        "observations.<key>.reliability",
        "str",
        "best_effort",
        "Reliability asked of the publisher.",
        allowed=("best_effort", "reliable"),
    ),
    Parameter(
        "observations.<key>.shape",
        "list[int]",
        (),
        "Shape of the network's input for one robot, with its stack or history, where the file does not say it.",
        minimum=1,
        maximum=1_000_000,
    ),
    Parameter(
        "observations.<key>.max_age_s",
        "float",
        0.0,
        "For a topic that is published seldom, as an operator's: its newest reading is used while it is at most so "
        "old, whatever the other stamps; 0: the topic is synchronised with the others.",
        "s",
        minimum=0.0,
        maximum=3600.0,
    ),
    Parameter(
        "observations.<key>.when_silent",
        "str",
        "stale",
        "What silence of the topic means: `stale` data, or for a sensor that publishes only while it measures "
        "something, as a contact sensor does, a reading of `zeros` for as long as its publisher is there.",
        allowed=WHEN_SILENT,
    ),
    Parameter(
        "observations.<key>.terms",
        "list[str]",
        (),
        "Names of the terms that the observation is made of, one after the other; it then has no topic of its own.",
    ),
    Parameter(
        "observations.<key>.<term>.kind",
        "str",
        "sensor",
        "What the term gives: the numbers of a message, gravity's direction in the body frame from a quaternion, a one "
        "for a category among zeros, or the policy's last action.",
        allowed=TERM_KINDS,
    ),
    Parameter("observations.<key>.<term>.topic", "str", "", "As for an observation; terms of one topic share it."),
    Parameter("observations.<key>.<term>.type", "str", "", "As for an observation, but no image."),
    Parameter("observations.<key>.<term>.field", "str", "", "As for an observation."),
    Parameter("observations.<key>.<term>.fields", "list[str]", (), "As for an observation."),
    Parameter("observations.<key>.<term>.joints", "list[str]", (), "As for an observation."),
    Parameter("observations.<key>.<term>.depth", "int", 0, "As for an observation.", minimum=0, maximum=1000),
    Parameter(
        "observations.<key>.<term>.reliability",
        "str",
        "best_effort",
        "As for an observation.",
        allowed=("best_effort", "reliable"),
    ),
    Parameter(
        "observations.<key>.<term>.max_age_s",
        "float",
        0.0,
        "As for an observation.",
        "s",
        minimum=0.0,
        maximum=3600.0,
    ),
    Parameter(
        "observations.<key>.<term>.when_silent",
        "str",
        "stale",
        "As for an observation.",
        allowed=WHEN_SILENT,
    ),
    Parameter(
        "observations.<key>.<term>.categories",
        "int",
        0,
        "For `one_hot`: how many categories there are, 0 to `categories` - 1.",
        minimum=0,
        maximum=100_000,
    ),
    Parameter(
        "observations.<key>.<term>.default",
        "list[float]",
        (),
        "Subtracted first, such as a default pose; one number or one per component, empty: 0.",
    ),
    Parameter(
        "observations.<key>.<term>.clip",
        "list[float]",
        (),
        "Lowest and highest value, before `scale`; empty: none.",
    ),
    Parameter(
        "observations.<key>.<term>.scale",
        "list[float]",
        (),
        "Multiplied after `clip`; one number or one per component, empty: 1.",
    ),
    Parameter(
        "observations.<key>.<term>.offset",
        "list[float]",
        (),
        "Added last; one number or one per component, empty: 0.",
    ),
    Parameter(
        "synchronisation.slop_s",
        "float",
        0.05,
        "Largest spread of the stamps in one robot's set of readings.",
        "s",
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter(
        "synchronisation.max_age_s",
        "float",
        0.2,
        "Largest age of the oldest reading in the set at the tick.",
        "s",
        minimum=0.001,
        maximum=60.0,
    ),
    Parameter("action.topic", "str", None, "Topic of the commands, below the robot's namespace."),
    Parameter("action.type", "str", None, "Message type of the commands.", allowed=Choices(COMMAND_TYPES)),
    Parameter(
        "action.fields",
        "list[str]",
        (),
        "Field of a Twist for each component of the command, such as `linear.x`; required for a Twist command.",
    ),
    Parameter(
        "action.joints",
        "list[str]",
        (),
        "Joint of a JointState or JointTrajectory for each component of the command; required for a joint command.",
    ),
    Parameter(
        "action.field", "str", "position", "What a JointState commands.", allowed=("position", "velocity", "effort")
    ),
    Parameter("action.frame_id", "str", "", "frame_id of stamped commands."),
    Parameter(
        "action.time_from_start_s",
        "float",
        0.0,
        "When a JointTrajectory's point is to be reached; 0: one control period.",
        "s",
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "action.scale",
        "list[float]",
        (),
        "What a continuous action is multiplied with; one number or one per component, empty: 1.",
    ),
    Parameter(
        "action.offset",
        "list[float]",
        (),
        "Added after `scale`, such as a default pose; one number or one per component, empty: 0.",
    ),
    Parameter(
        "action.low",
        "list[float]",
        (),
        "Lowest command, after `offset`; one number or one per component, empty: none.",
    ),
    Parameter(
        "action.high",
        "list[float]",
        (),
        "Highest command, after `offset`; one number or one per component, empty: none.",
    ),
    Parameter("action.table", "list[float]", (), "For a Discrete action: one command per action, row after row."),
    Parameter(
        "action.when_stale",
        "str",
        "stop",
        "What a robot gets whose data are not good: the safe command, its last command for `hold_s`, or nothing.",
        allowed=("stop", "hold", "silent"),
    ),
    Parameter(
        "action.hold_s",
        "float",
        0.5,
        "How long `hold` repeats the last command before it stops the robot.",
        "s",
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "action.safe_command",
        "list[float]",
        (),
        "The safe command; empty: zeros for a Twist. Any other type needs it or `safe_position_topic`, unless "
        "`when_stale` is `silent`.",
    ),
    Parameter(
        "action.safe_position_topic",
        "str",
        "",
        "For position commands: JointState topic, below the robot's namespace, of the present position, which is then "
        "the safe command; it stays what it was when the robot was stopped.",
    ),
    Parameter(
        "action.safe_position_joints",
        "list[str]",
        (),
        "Joint of each component in that topic; empty: `action.joints`.",
    ),
    Parameter(
        "action.max_rate",
        "list[float]",
        (),
        "Largest change of the command per second; one number or one per component, empty: any. Safe commands are sent "
        "at once.",
        minimum=1e-9,
        maximum=1e9,
    ),
    Parameter(
        "action.ramp_s",
        "float",
        0.0,
        "Time over which the command goes over from the safe one to the policy's after activation or recovery.",
        "s",
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "action.deadline_s",
        "float",
        0.0,
        "Deadline and lease of liveliness (at least 0.1 s) that the command topics offer; 0: three control periods.",
        "s",
        minimum=0.0,
        maximum=3600.0,
    ),
    Parameter(
        "record.path",
        "str",
        "",
        "Folder in which each activation records a bag of what the policy saw and what was commanded; empty: nothing "
        "is recorded.",
    ),
    Parameter(
        "watchdog.timeout_s",
        "float",
        0.0,
        "A tick that takes longer is taken for hanging, and the robots get their safe commands; 0: "
        "`synchronisation.max_age_s`, at least two control periods.",
        "s",
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "realtime.priority",
        "int",
        0,
        "Real-time priority (SCHED_FIFO) of the tick, its decoding threads and its watchdog; 0: none. Needs the "
        "permission of the system.",
        minimum=0,
        maximum=99,
    ),
    Parameter("realtime.cpus", "list[int]", (), "CPUs of the tick and its decoding threads; empty: any.", minimum=0),
    Parameter(
        "realtime.freeze_gc",
        "bool",
        True,
        "Whether the garbage collector leaves alone what configure made, as a full collection takes several ticks.",
    ),
    Parameter(
        "realtime.switch_interval_s",
        "float",
        0.0005,
        "After how long another Python thread must hand the interpreter to the tick thread.",
        "s",
        minimum=0.000_01,
        maximum=1.0,
    ),
)

# Parameters that ROS itself gives every node.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_PARAMETER_PREFIXES = ("qos_overrides./clock.", "qos_overrides./parameter_events.")

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn the topics of policy nodes into messages for the page.

A message is a dictionary with its `kind`, the name of its `node`, and its time `t` in seconds since 1970:

- `status`: diagnostics of a `part` (`control` or a robot) of a node: `level`, `message`, `values`;
- `timing`: every tick since the last one: times `ticks`, and in ms `lateness`, `duration` and `age` of the oldest data;
- `preview`: see `policy_node.ros.preview`;
- `event`: a change of the `state` of a `part`, with its `reason`;
- `gone`: the node is no longer there under this name.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.validate_full_topic_name import validate_full_topic_name
from std_msgs.msg import Float64MultiArray, String

from policy_node.cli.monitor import DiagnosticsView, Part, part_as_json
from policy_node.ros.rclpy_internals import poll_topic

# How far back a new page sees.
COMMANDS_S = 30.0
TIMING_S = 120.0
EVENTS = 2000
CONTROL = "control"
# State of the robots of a node that is not active.
INACTIVE = "INACTIVE"
PREVIEW_KEYS = {"robots", "components", "low", "high", "states", "reasons", "ages_ms", "commands", "images"}

Message = dict[str, Any]


class _Topic:
    """A subscription that is polled."""

    def __init__(self, node: Node, message_type: type, name: str, depth: int) -> None:
        self._node = node
        self._subscription, self._take = poll_topic(node, message_type, name, QoSProfile(depth=depth))

    def take(self) -> list[Any]:
        """Return the messages that have arrived."""
        return [message for message, _ in iter(self._take, None)]

    def close(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)


class Feed:
    """Takes the topics of all nodes that a view finds; `take` is called by one thread."""

    def __init__(self, node: Node, view: DiagnosticsView) -> None:
        self._node = node
        self._view = view
        self._timing: dict[str, _Topic] = {}
        self._previews: dict[str, _Topic] = {}
        self._timing_s: dict[str, float] = {}
        # Diagnostics of each part of each node that were told, a new object for each report.
        self._told: dict[tuple[str, str], Part] = {}
        # Newest status of each part of each node.
        self._statuses: dict[tuple[str, str], Message] = {}
        self._states: dict[tuple[str, str], str] = {}
        self._history: dict[str, deque[Message]] = {
            "timing": deque(),
            "preview": deque(),
            "event": deque(maxlen=EVENTS),
        }

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes that were heard."""
        return sorted(self._view.nodes)

    def why_nothing(self) -> str:
        """Return why no node was heard, and what to do; empty if one was."""
        return "" if self._view.nodes else self._view.why_nothing()

    def history(self) -> list[Message]:
        """Return what a page that is opened now has to know."""
        return [*self._statuses.values(), *(message for kept in self._history.values() for message in kept)]

    def take(self, is_watched: bool) -> list[Message]:
        """Return the messages since the last call; previews only while somebody watches."""
        now_s = time.time()
        self._view.take()
        messages = [*self._news(now_s), *self._gone(now_s)]
        self._subscribe(is_watched)
        for name, topic in self._timing.items():
            messages += [ticks for message in topic.take() if (ticks := self._ticks(name, message, now_s))]
        for name, topic in self._previews.items():
            # The newest shows the present; the images of each differ.
            messages += [preview for text in topic.take() if (preview := _preview(name, text.data, now_s))]
        for message in messages[:]:
            messages += self._events(message)
        for message in messages:
            self._keep(message)
        self._forget(now_s)
        return messages

    def _news(self, now_s: float) -> Iterator[Message]:
        """Yield the diagnostics that are new."""
        for node, view in self._view.nodes.items():
            for part, found in ((CONTROL, view.control), *view.robots.items()):
                if self._told.get((node, part)) is not found:
                    self._told[node, part] = found
                    yield {"kind": "status", "node": node, "part": part, "t": now_s, **part_as_json(found)}

    def _gone(self, now_s: float) -> list[Message]:
        """Return which nodes are no longer there under their name, and forget them."""
        gone = {node for node, _ in self._told} - self._view.nodes.keys()
        if not gone:
            return []
        for kept in (self._told, self._statuses, self._states):
            for key in [key for key in kept if key[0] in gone]:
                del kept[key]
        for kind, messages in self._history.items():
            self._history[kind] = deque((found for found in messages if found["node"] not in gone), messages.maxlen)
        for topics in (self._timing, self._previews):
            for node in gone & topics.keys():
                topics.pop(node).close()
        return [{"kind": "gone", "node": node, "t": now_s} for node in gone]

    def _subscribe(self, is_watched: bool) -> None:
        for name in self._view.nodes:
            try:
                validate_full_topic_name(f"/{owner_of(name)}/timing")
            except NameValidationException:
                continue  # of another program, which has no such topics
            if name not in self._timing:
                self._timing[name] = _Topic(self._node, Float64MultiArray, f"/{owner_of(name)}/timing", 10)
            if is_watched and name not in self._previews:
                self._previews[name] = _Topic(self._node, String, f"/{owner_of(name)}/preview", 10)
        if not is_watched:
            while self._previews:
                self._previews.popitem()[1].close()

    def _ticks(self, node: str, message: Float64MultiArray, now_s: float) -> Message | None:
        """Return the times of ticks as a message; None if another program publishes something else on the topic."""
        sizes = [dimension.size for dimension in message.layout.dim]
        if len(sizes) != 2 or math.prod(sizes) != len(message.data) or sizes[0] < 1 or sizes[1] < 3:
            return None
        ticks, columns = sizes
        rows_ms = np.array(message.data).reshape(ticks, columns)
        ages_ms = np.where(np.isfinite(rows_ms[:, 2:]), rows_ms[:, 2:], -math.inf).max(axis=1)
        # Ticks are regular: their times follow from those of the reports.
        since_s = max(self._timing_s.get(node, now_s - 1.0), now_s - 2.0)
        self._timing_s[node] = now_s
        return {
            "kind": "timing",
            "node": node,
            "t": now_s,
            "ticks": np.linspace(since_s, now_s, ticks + 1)[1:].round(3).tolist(),
            "lateness": rows_ms[:, 0].round(3).tolist(),
            "duration": rows_ms[:, 1].round(3).tolist(),
            "age": [age_ms if math.isfinite(age_ms) else None for age_ms in ages_ms.round(2).tolist()],
        }

    def _events(self, message: Message) -> list[Message]:
        """Return the changes of states that a message tells."""
        events = []
        for part, state, reason in self._states_in(message):
            if self._states.get((message["node"], part)) != state:
                self._states[message["node"], part] = state
                event = {"kind": "event", "node": message["node"], "part": part, "t": message["t"]}
                events.append({**event, "state": state, "reason": reason})
        return events

    def _states_in(self, message: Message) -> list[tuple[str, str, str]]:
        """Return part, state and reason of everything whose state a message tells."""
        node = message["node"]
        if message["kind"] == "preview":
            reasons = message["reasons"]
            return [
                (robot, state, reasons.get(str(index), ""))
                for index, (robot, state) in enumerate(zip(message["robots"], message["states"], strict=False))
            ]
        if message["kind"] != "status":
            return []
        if message["part"] != CONTROL:
            # Previews are newer.
            values, has_previews = message["values"], node in self._previews
            return [] if has_previews else [(message["part"], str(values["state"]), str(values.get("reason", "")))]
        found = [(CONTROL, message["level"], message["message"])]
        if not _is_active(message):
            found += [(part, INACTIVE, "") for owner, part in self._states if owner == node and part != CONTROL]
        return found

    def _keep(self, message: Message) -> None:
        kind, node = message["kind"], message["node"]
        if kind == "gone":
            return
        if kind != "status":
            self._history[kind].append(message if kind != "preview" else {**message, "images": {}})
            return
        if message["part"] == CONTROL and not _is_active(message):
            for part in [part for owner, part in self._statuses if owner == node and part != CONTROL]:
                del self._statuses[node, part]
        self._statuses[node, message["part"]] = message

    def _forget(self, now_s: float) -> None:
        for kind, kept_s in (("timing", TIMING_S), ("preview", COMMANDS_S)):
            messages = self._history[kind]
            while messages and messages[0]["t"] < now_s - kept_s:
                messages.popleft()


def owner_of(node: str) -> str:
    """Return the name of a node without the process that tells it from another one of that name."""
    return node.partition(" ")[0]


def _is_active(message: Message) -> bool:
    return message["values"].get("lifecycle_state") == "active"


def _is_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


def _preview(node: str, text: str, now_s: float) -> Message | None:
    """Return a preview as a message; None if another program publishes something else on its topic."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_preview = isinstance(found, dict) and found.keys() >= PREVIEW_KEYS
    # What the feed reads itself; the page shows the rest.
    is_preview = is_preview and isinstance(found["reasons"], dict)
    is_preview = is_preview and all(_is_texts(found[key]) for key in ("robots", "states"))
    return {**found, "kind": "preview", "node": node, "t": now_s} if is_preview else None

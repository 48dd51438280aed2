# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Use what rclpy does not document: take messages when the caller wants them, send serialised ones, release a node.

The only module that does so. Executors of rclpy call `take_message` and `take_event` themselves; rclpy has no public
way to take a message or an event when a tick needs it. `publish_raw` is what `Publisher.publish` calls behind a lock
and checks of types. `_state_machine` keeps a lifecycle node alive. Each is looked for before it is used. Where it is
missing or has changed, the public way takes its place, and a warning says so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import (
    PublisherEventCallbacks,
    QoSSubscriptionEventType,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.logging import RcutilsLogger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from policy_node.config.schema import ConfigurationError

# A message, serialised or not, and its information from the middleware.
Taken: TypeAlias = tuple[Any, Mapping[str, Any]]
# Returns the next message of a subscription, None without one.
Take: TypeAlias = Callable[[], Taken | None]

# Sends a serialised message.
Send: TypeAlias = Callable[[bytes], None]

# Most calls of callbacks after the end of `spinning`.
LAST_CALLS = 100

# For publishers whose events no executor handles: each handler is checked at each of its wake-ups.
NO_EVENTS = PublisherEventCallbacks(use_default_callbacks=False)

# Executors of nodes that nobody else spins; they end with the process.
_executors: dict[Node, Executor] = {}


class EventsOnly(CallbackGroup):
    """Keeps its subscriptions out of the wait set of executors."""

    def can_execute(self, entity: object) -> bool:
        """Return whether an entity is anything but a subscription."""
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: object) -> bool:
        """Return whether an entity is anything but a subscription."""
        return not isinstance(entity, Subscription)

    def ending_execution(self, entity: object) -> None:
        """Do nothing."""


def waited_on(subscriptions: Iterable[Subscription]) -> Iterator[Subscription]:
    """Return the subscriptions that executors have to wait on, without those of `poll_topic`."""
    return (each for each in subscriptions if not isinstance(each.callback_group, EventsOnly))


def check_executor(node: Node) -> None:
    """Check that the executor of a node leaves polled subscriptions alone.

    Raises
    ------
    ConfigurationError
        If it is an EventsExecutor, which ignores callback groups and takes the messages itself.
    """
    found = type(node.executor).__name__
    if "EventsExecutor" in found:
        raise ConfigurationError(
            f"executor: found {found}, which takes the messages of sensors itself, so that the tick gets none; spin "
            "the node with rclpy.executors.SingleThreadedExecutor, as the executable policy_node does"
        )


def poll_topic(
    node: Node,
    message_type: Any,
    topic: str,
    qos: QoSProfile,
    raw: bool = False,
) -> tuple[Subscription, Take]:
    """Subscribe a topic without a callback.

    Parameters
    ----------
    node
        Owner of the subscription; `node.destroy_subscription` ends it.
    message_type, topic, qos
        As for `Node.create_subscription`.
    raw
        Whether messages are taken as serialised bytes.

    Returns
    -------
    subscription
        The subscription.
    take
        Returns the next message and its information; None if there is none. Call it from one thread at a time.
    """
    # Handlers of events would wake the executor without end while a message waits: Fast DDS has one condition for both.
    events = SubscriptionEventCallbacks(use_default_callbacks=False)
    subscription = node.create_subscription(
        message_type, topic, _never_called, qos, callback_group=EventsOnly(), raw=raw, event_callbacks=events
    )
    take = direct_take(subscription, node.get_logger())
    if take is not None:
        return subscription, take
    node.destroy_subscription(subscription)
    return _queued(node, message_type, topic, qos, raw, events)


def poll_event(subscription: Subscription, kind: QoSSubscriptionEventType) -> Callable[[], Any] | None:
    """Return the function that takes the newest event of a kind of a polled subscription.

    Returns
    -------
    take
        Returns the status of the event, with its changes since the last call; None without a change. Call it from one
        thread at a time. None where the middleware has no such event, or rclpy no usable `EventHandle`.
    """
    try:
        take: Callable[[], Any] = _rclpy.EventHandle(subscription.handle, kind).take_event
    except (UnsupportedEventTypeError, AttributeError, TypeError):
        return None
    return take


def direct_take(subscription: Subscription, logger: RcutilsLogger) -> Take | None:
    """Return the function that takes the next message of a subscription, None where rclpy has no usable one.

    A warning says so once.
    """
    try:
        take: Take = partial(subscription.handle.take_message, subscription.msg_type, subscription.raw)
        first = take()
        if first is None:
            return take
        _, information = first
        information["source_timestamp"], information["received_timestamp"]
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        logger.warning(
            f"rclpy has no usable take_message here ({type(error).__name__}: {error}): callbacks of an executor take "
            "the messages, which costs several times the CPU time; use a tested distribution of ROS 2 (README.md)",
            once=True,
        )
        return None
    # A message that was there already comes first.
    return partial(next, chain([first], iter(take, object())))


def direct_send(publisher: Publisher, logger: RcutilsLogger) -> Send:
    """Return the function that sends serialised messages, `publisher.publish` where rclpy has no other one.

    A warning says so once. The function cannot be tried: a robot may listen already.
    """
    try:
        send: Send = publisher.handle.publish_raw
    except AttributeError as error:
        logger.warning(
            f"rclpy has no usable publish_raw here ({type(error).__name__}: {error}): Publisher.publish sends the "
            "commands, which takes longer; use a tested distribution of ROS 2 (README.md)",
            once=True,
        )
        return publisher.publish
    return send


def release_state_machine(node: Node) -> None:
    """Drop the state machine of a destroyed lifecycle node, which keeps the rcl node and its participant alive.

    Does nothing for other nodes, and where rclpy has no such attribute: the end of the process frees both then.
    """
    vars(node).pop("_state_machine", None)


def _queued(
    node: Node, message_type: Any, topic: str, qos: QoSProfile, raw: bool, events: SubscriptionEventCallbacks
) -> tuple[Subscription, Take]:
    """Subscribe a topic with a callback into a queue: the public way."""
    queue: deque[Taken] = deque(maxlen=qos.depth)

    def keep(message: Any, information: Mapping[str, Any]) -> None:
        queue.append((message, information))

    def take() -> Taken | None:
        if not queue:
            _spin_if_nobody_does(node)
        return queue.popleft() if queue else None

    return node.create_subscription(message_type, topic, keep, qos, raw=raw, event_callbacks=events), take


def _spin_if_nobody_does(node: Node) -> None:
    """Run one callback of a node that has no executor."""
    if node.executor is None:
        _executors[node] = SingleThreadedExecutor(context=node.context)
        _executors[node].add_node(node)
    executor = _executors.get(node)
    if executor is not None and executor is node.executor:
        executor.spin_once(timeout_sec=0.0)


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Call the services and event handlers of a node from another thread; calls that wait at the end are made."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    ended = threading.Event()

    def spin(timeout_s: float | None) -> None:
        try:
            executor.spin_once(timeout_sec=timeout_s)
        except Exception as error:  # the other callbacks go on
            text = f"a callback failed: {type(error).__name__}: {error}"
            node.get_logger().error(text, throttle_duration_sec=1.0)

    def run() -> None:
        while not ended.is_set():
            spin(None)

    thread = threading.Thread(target=run, name="executor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # `wake` alone does not end `spin_once`.
        executor.create_task(lambda: None)
        thread.join()
        for _ in range(LAST_CALLS):
            spin(0.0)
        executor.shutdown()


def _never_called(message: object) -> None:
    raise AssertionError("the messages of this subscription are polled; no executor takes them")

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Make the decoders of readings and the encoders of commands, and check them before the first message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import header_stamp_ns
from policy_node.messages.command_fields import command_type
from policy_node.messages.commands import CommandChoices, CommandEncoder
from policy_node.messages.fields import MessageClass, MessageTypeError, has_header, message_class
from policy_node.messages.reading import Copies, Reader, UnusableReading
from policy_node.messages.types import MESSAGE_TYPES, MessageType
from policy_node.messages.types.numbers import numbers_at

__all__ = ["CommandEncoder", "MessageTypeError", "ReadingDecoder", "command_encoder", "reading_decoder", "reading_size"]


class ReadingDecoder:
    """Decodes the serialised messages of one observation; made by `reading_decoder`.

    It keeps no state of a robot, so one decoder serves all robots of a fleet. Several threads may use it at once only
    if it is `parallel`, see `Reader`.
    """

    def __init__(self, message_type: MessageClass, topic: str, read: Reader) -> None:
        self.message_type = message_type
        self._topic = topic
        self._read = read
        self._has_header = has_header(message_type)
        self.parallel = read.parallel
        #: What an operator should know about the messages so far, each once.
        self.notices: Sequence[str] = getattr(read, "notices", ())
        #: How usual messages are copied; None: each is decoded.
        self.copies: Copies | None = getattr(read, "copies", None)

    def stamp_ns(self, raw: bytes) -> int | None:
        """Return the header stamp of a serialised message in nanoseconds.

        None for a type without a header, and for a message that is cut before the stamp, which `decode` then refuses.
        """
        return header_stamp_ns(raw) if self._has_header else None

    def decode(self, raw: bytes, out: np.ndarray) -> None:
        """Decode a serialised message into a row of the batch.

        Parameters
        ----------
        raw
            The message in CDR; its content is not trusted.
        out
            C-contiguous array of the shape and dtype of the spec; unchanged when the message is unusable.

        Raises
        ------
        UnusableReading
            If the message is damaged or does not fit the spec.
        """
        try:
            self._read(raw, out)
        except UnusableReading as error:
            raise type(error)(f"{self._topic}: {error}") from error


def type_named(name: str) -> MessageType:
    """Return the record of a type; for a type without one, a record that reads it by `field` or `fields`."""
    return MESSAGE_TYPES.get(name) or numbers_at(name, "", "")


def reading_decoder(
    type_name: str,
    spec: ArraySpec,
    *,
    topic: str,
    **choices: Any,
) -> ReadingDecoder:
    """Make the decoder that turns messages of a type into one observation of a policy.

    Parameters
    ----------
    type_name
        Such as ``sensor_msgs/msg/Image``; any installed message type, with `field` or `fields` where the type has no
        record in `policy_node.messages.types`.
    spec
        One frame: `[height, width, channels]` for images, `[n]` for all else.
    topic
        Named in errors.
    choices
        See `ReadingChoices`.

    Raises
    ------
    MessageTypeError
        If the type does not fit `spec`.
    """
    kind, chosen = type_named(type_name), _chosen(choices)
    try:
        message_type = message_class(type_name)
        kind.check(chosen)
        read = kind.make(message_type, spec, chosen)
    except MessageTypeError as error:
        what = f"topic '{topic}' of {type_name} cannot give observation '{spec.name}'"
        raise MessageTypeError(f"{what}: {error}") from error
    return ReadingDecoder(message_type, topic, read)


def reading_size(type_name: str, **choices: Any) -> int | None:
    """Return how many numbers a message of a type gives, read as by `reading_decoder`; None if each message chooses.

    Raises MessageTypeError if the type cannot be read like that.
    """
    kind, chosen = type_named(type_name), _chosen(choices)
    kind.check(chosen)
    return None if kind.size is None else kind.size(message_class(type_name), chosen)


def _chosen(choices: Mapping[str, Any]) -> ReadingChoices:
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in choices.items()
    }
    return ReadingChoices(**chosen)


def command_encoder(
    type_name: str,
    components: int,
    *,
    fields: Sequence[str] = (),
    joints: Sequence[str] = (),
    field: str = "position",
    frame_id: str = "",
    time_from_start_s: float,
    constants: Sequence[str] = (),
    points: int = 1,
) -> CommandEncoder:
    """Make the encoder that turns commands into messages of a type; `CommandChoices` describes the parameters.

    Raises
    ------
    MessageTypeError
        If fields, joints or constants do not fit the type. A type without a record in `policy_node.messages.commands`
        is written by `fields`.
    """
    kind = command_type(type_name)
    choices = CommandChoices(
        components, tuple(fields), tuple(joints), field, frame_id, time_from_start_s, tuple(constants), points
    )
    try:
        kind.check(choices)
        return kind.make(message_class(type_name), choices)
    except MessageTypeError as error:
        raise MessageTypeError(f"{type_name} cannot carry the command: {error}") from error

# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The memory that a module keeps in its buffers and attributes, as tensors that are kept for each robot.

An attribute may be a tensor, a number, a tuple, a list or optional. Its layout follows from the values that it takes in
runs on examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from policy_node.policies.contract import PolicyError

# A list that still grows after so many runs is refused.
EXAMPLE_RUNS = 60
# Floating-point inputs of the runs are multiplied by these in turn.
_FACTORS = (1.0, -1.0, 0.1, 3.0)
_RESETS = ("reset_memory", "reset", "reset_hidden_states", "reset_hidden_state", "reset_state")


class UnfitMemoryError(PolicyError):
    """A module keeps memory that cannot be kept for each robot; the text names the attribute."""


class Layout(ABC):
    """The layout of a value: how it becomes tensors of fixed shapes, and how it is made from them again.

    Attributes
    ----------
    name
        Dotted name of the attribute, with the place inside of it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def blanks(self) -> dict[str, torch.Tensor]:
        """Zeros by name, in the shapes of the tensors for one robot."""

    @abstractmethod
    def pack(self, value: Any) -> list[torch.Tensor]:
        """Return copies of a value as tensors, in the order of `blanks`; raises PolicyError for another layout."""

    @abstractmethod
    def unpack(self, tensors: Iterator[torch.Tensor]) -> Any:
        """Return the value that the next tensors stand for; it shares no memory with them."""

    def widened(self, choice: int) -> Layout | None:
        """Return the layout for several robots, with a robots axis by preference; None without one."""
        return None

    def misfit(self, value: Any) -> PolicyError:
        """Return the error of a value with another layout."""
        found = f"{list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        return PolicyError(
            f"the policy's attribute '{self.name}' became {found}, unlike in the example runs when it was loaded; it "
            "cannot be kept for each robot, so export the policy with this memory as input and output"
        )


class TensorLayout(Layout):
    """A tensor of one shape.

    Parameters
    ----------
    axis
        Robots axis of the module's tensor, which has one robot there; -1: a new first axis; None: one robot only.
    """

    def __init__(self, name: str, example: torch.Tensor, axis: int | None = None) -> None:
        super().__init__(name)
        self._blank = torch.zeros_like(example, memory_format=torch.contiguous_format)
        self._axis = axis

    @property
    def blanks(self) -> dict[str, torch.Tensor]:
        """Zeros by name."""
        return {self.name: self._blank}

    def pack(self, value: Any) -> list[torch.Tensor]:
        """Return a copy of the tensor, with several robots `[robots, *shape]`."""
        if not isinstance(value, torch.Tensor) or value.dtype != self._blank.dtype:
            raise self.misfit(value)
        shape = value.shape
        if self._axis is not None:
            value = value if self._axis < 0 else value.movedim(self._axis, 0).unsqueeze(1 + self._axis)
            shape = value.shape[1:]
        if shape != self._blank.shape:
            raise self.misfit(value)
        return [value.detach().clone(memory_format=torch.contiguous_format)]

    def unpack(self, tensors: Iterator[torch.Tensor]) -> Any:
        """Return a copy of the tensor, as the module wants it."""
        value = next(tensors)
        if self._axis is not None and self._axis >= 0:
            value = value.squeeze(1 + self._axis).movedim(0, self._axis)
        return value.clone(memory_format=torch.contiguous_format)

    def widened(self, choice: int) -> Layout | None:
        """Return the layout for several robots; recurrent layers have `[layers, robots, units]`."""
        axes = [axis for axis, length in enumerate(self._blank.shape) if length == 1]
        if self._blank.ndim >= 3 and 1 in axes:
            axes = [1, *(axis for axis in axes if axis != 1)]
        axes = [*axes, -1]
        return TensorLayout(self.name, self._blank, axes[min(choice, len(axes) - 1)])


class NumberLayout(Layout):
    """An int, a float or a bool."""

    def __init__(self, name: str, kind: type) -> None:
        super().__init__(name)
        self._kind = kind
        self._dtype = {bool: torch.bool, int: torch.int64, float: torch.float64}[kind]

    @property
    def blanks(self) -> dict[str, torch.Tensor]:
        """Zero by name."""
        return {self.name: torch.zeros((), dtype=self._dtype)}

    def pack(self, value: Any) -> list[torch.Tensor]:
        """Return the number as a tensor."""
        if type(value) is not self._kind:
            raise self.misfit(value)
        return [torch.tensor(value, dtype=self._dtype)]

    def unpack(self, tensors: Iterator[torch.Tensor]) -> Any:
        """Return the number."""
        return next(tensors).item()


class OptionalLayout(Layout):
    """A value that may be None."""

    def __init__(self, inner: Layout) -> None:
        super().__init__(inner.name)
        self._inner = inner

    @property
    def blanks(self) -> dict[str, torch.Tensor]:
        """Zeros by name, first whether there is a value."""
        return {f"{self.name}.is_set": torch.zeros((), dtype=torch.bool)} | self._inner.blanks

    def pack(self, value: Any) -> list[torch.Tensor]:
        """Return whether there is a value, and the value or zeros."""
        inner = [blank.clone() for blank in self._inner.blanks.values()] if value is None else self._inner.pack(value)
        return [torch.tensor(value is not None), *inner]

    def unpack(self, tensors: Iterator[torch.Tensor]) -> Any:
        """Return the value or None."""
        is_set, value = next(tensors).item(), self._inner.unpack(tensors)
        return value if is_set else None


class ItemsLayout(Layout):
    """A tuple or a list; a list that `varies` has at most so many items."""

    def __init__(
        self, name: str, items: Sequence[Layout], kind: type[tuple[Any, ...]] | type[list[Any]], varies: bool
    ) -> None:
        super().__init__(name)
        self._items = items
        self._kind = kind
        self._varies = varies

    @property
    def blanks(self) -> dict[str, torch.Tensor]:
        """Zeros by name, first the number of items if it varies."""
        length = {f"{self.name}.length": torch.zeros((), dtype=torch.int64)} if self._varies else {}
        return length | {name: blank for item in self._items for name, blank in item.blanks.items()}

    def pack(self, value: Any) -> list[torch.Tensor]:
        """Return the items, filled up with zeros."""
        most = len(self._items)
        if not isinstance(value, self._kind) or len(value) > most or (len(value) < most and not self._varies):
            raise self.misfit(value)
        found = [torch.tensor(len(value))] if self._varies else []
        for place, item in enumerate(self._items):
            is_there = place < len(value)
            found += item.pack(value[place]) if is_there else [blank.clone() for blank in item.blanks.values()]
        return found

    def unpack(self, tensors: Iterator[torch.Tensor]) -> Any:
        """Return the tuple or list."""
        length = int(next(tensors).item()) if self._varies else len(self._items)
        return self._kind([item.unpack(tensors) for item in self._items][:length])

    def widened(self, choice: int) -> Layout | None:
        """Return the layout for several robots."""
        items = [wide for item in self._items if (wide := item.widened(choice)) is not None]
        if self._varies or len(items) < len(self._items):
            return None
        return ItemsLayout(self.name, items, self._kind, varies=False)


def layout_of(name: str, values: Sequence[Any]) -> Layout:
    """Return the layout of a value from those that it took one after the other; raises UnfitMemoryError without one."""
    present = [value for value in values if value is not None]
    if not present:
        raise UnfitMemoryError(f"'{name}', which stays None on example inputs")
    if len(present) < len(values):
        return OptionalLayout(layout_of(name, present))
    first = present[0]
    if isinstance(first, torch.Tensor):
        for value in present:
            if (value.shape, value.dtype) != (first.shape, first.dtype):
                raise UnfitMemoryError(f"'{name}', whose shape changes from {list(first.shape)} to {list(value.shape)}")
        return TensorLayout(name, first)
    if type(first) in (bool, int, float):
        return NumberLayout(name, type(first))
    if isinstance(first, (tuple, list)):
        return _layout_of_items(name, present)
    raise UnfitMemoryError(f"'{name}' of the type {type(first).__name__}")


def _layout_of_items(name: str, values: Sequence[Any]) -> Layout:
    lengths = [len(value) for value in values]
    most = max(lengths)
    if not most:
        raise UnfitMemoryError(f"'{name}', which stays empty on example inputs")
    if min(lengths) < most and lengths.index(most) == len(lengths) - 1:
        raise UnfitMemoryError(f"'{name}', which still grows after {len(values) - 1} example runs")
    items = [
        layout_of(f"{name}.{place}", [value[place] for value in values if place < len(value)]) for place in range(most)
    ]
    return ItemsLayout(name, items, tuple if isinstance(values[0], tuple) else list, varies=min(lengths) < most)


class ModuleMemory:
    """The attributes of a module that its calls change, written and read as tensors.

    Parameters
    ----------
    layouts
        By the dotted name of the attribute.
    fresh
        Tensors at the start by name, for one robot.
    """

    def __init__(self, module: Any, layouts: Mapping[str, Layout], fresh: Mapping[str, torch.Tensor]) -> None:
        self.fresh = fresh
        self._layouts = layouts
        self._places = [(*owner_of(module, name), layout) for name, layout in layouts.items()]

    def write(self, tensors: Sequence[torch.Tensor]) -> None:
        """Set the attributes to copies of tensors, which have the order of `fresh`."""
        remaining = iter(tensors)
        for owner, attribute, layout in self._places:
            setattr(owner, attribute, layout.unpack(remaining))

    def read(self) -> list[torch.Tensor]:
        """Return copies of the attributes, in the order of `fresh`."""
        return [tensor for owner, name, layout in self._places for tensor in layout.pack(getattr(owner, name))]

    def widened(self, module: Any) -> Iterator[ModuleMemory]:
        """Yield the memory of a module for several robots, `[robots, *shape]`, with each robots axis that may be meant.

        Nothing is yielded for memory that does not consist of tensors of one shape.
        """
        choices = 1 + max((blank.ndim for blank in self.fresh.values()), default=0)
        for choice in range(choices):
            layouts = {name: layout.widened(choice) for name, layout in self._layouts.items()}
            found = {name: layout for name, layout in layouts.items() if layout is not None}
            if len(found) == len(layouts):
                yield ModuleMemory(module, found, self.fresh)


def owner_of(module: Any, name: str) -> tuple[Any, str]:
    """Return the submodule that has an attribute of a dotted name, and the last part of the name."""
    path, _, attribute = name.rpartition(".")
    for part in filter(None, path.split(".")):
        module = getattr(module, part)
    return module, attribute


def find_memory(
    module: Any,
    names: Sequence[str],
    run: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    example: list[torch.Tensor],
) -> ModuleMemory:
    """Return the memory of a module in some attributes, which begins as its own reset leaves it.

    Parameters
    ----------
    names
        The attributes that calls may change, by their dotted names.
    run
        Calls the module and returns its outputs.
    example
        Inputs for one robot.

    Raises
    ------
    UnfitMemoryError
        If it cannot be kept for each robot: an attribute is of a type or changes in a way that tensors of fixed shapes
        cannot hold, or copies of the attributes do not act as the attributes do.
    """
    if "" in names:
        raise UnfitMemoryError("a constant of its code, or code that is not in the file")
    owners = {name: owner_of(module, name) for name in names}
    values: dict[str, list[Any]] = {name: [_copied(getattr(*place))] for name, place in owners.items()}
    steps = [_scaled(example, _FACTORS[step % len(_FACTORS)]) for step in range(EXAMPLE_RUNS)]
    expected = []
    for inputs in steps:
        expected.append([output.clone() for output in run(inputs)])
        for name, place in owners.items():
            values[name].append(_copied(getattr(*place)))
    for name, (owner, attribute) in owners.items():
        setattr(owner, attribute, _copied(values[name][0]))
    _reset(module)
    begun = {name: _copied(getattr(*place)) for name, place in owners.items()}
    layouts = {name: layout_of(name, [begun[name], *values[name]]) for name in names}
    blanks = [name for layout in layouts.values() for name in layout.blanks]
    start, fresh = (
        dict(zip(blanks, [part for name in names for part in layouts[name].pack(given[name])], strict=True))
        for given in ({name: values[name][0] for name in names}, begun)
    )
    memory = ModuleMemory(module, layouts, fresh)
    kept = list(start.values())
    for inputs, outputs in zip(steps, expected, strict=True):
        memory.write(kept)
        found = run(inputs)
        if not all(torch.allclose(*pair, equal_nan=True) for pair in zip(found, outputs, strict=True)):
            listed = ", ".join(f"'{name}'" for name in names)
            raise UnfitMemoryError(
                f"{listed}: with copies it acts differently, so attributes share memory or it is random"
            )
        kept = memory.read()
    return memory


def _reset(module: Any) -> None:
    """Call the method of a TorchScript module that clears its memory, if it has one that needs no arguments."""
    for name in _RESETS:
        if isinstance(module, torch.jit.ScriptModule) and module._c._has_method(name):
            method = getattr(module, name)
            if all(argument.has_default_value() for argument in method.schema.arguments[1:]):
                method()
                return


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return type(value)(map(_copied, value)) if type(value) in (tuple, list) else value


def _scaled(inputs: list[torch.Tensor], factor: float) -> list[torch.Tensor]:
    return [tensor * factor if tensor.is_floating_point() else tensor for tensor in inputs]


class Watch:
    """Finds tensors of a module that a call changed although its code does not say so.

    Parameters
    ----------
    names
        Dotted names of the tensors that no call may change.
    """

    def __init__(self, module: Any, names: Sequence[str]) -> None:
        tensors = [(getattr(*owner_of(module, name)), name) for name in names]
        self._watched = [(tensor, tensor._version, name) for tensor, name in tensors if not tensor.is_inference()]

    def check(self) -> None:
        """Raise PolicyError if one of the tensors was changed: it may have carried one robot's data to another one."""
        for tensor, version, name in self._watched:
            if tensor._version != version:
                raise PolicyError(
                    f"the policy changed its tensor '{name}', which is not known as memory, so that one robot may act "
                    "by what another one observed; export the policy with this memory as input and output"
                )

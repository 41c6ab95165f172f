"""One step at a time: an LSTM that listens to one stream or to thousands, each with its own state.

torch.nn.LSTM rearranges its weights at every call, which for a single step takes many times as long as the step. Here
they are arranged once, the states stay where they are, and a step is one call into the kernels.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn, final

import numpy as np
import torch
from torch import Tensor, nn

from . import library
from .cells import State
from .stack import LSTMStack
from .stream_bytes import state_from_bytes, state_to_bytes
from .stream_layers import Steppable, check_steppable, shapes_of, tensor_of
from .stream_native import BAD_SLOT, BUSY, KEEPS_THE_LOCK, PRECISIONS, Memory

Precision = Literal["highest", "medium", "int8"]
Array = np.ndarray[Any, Any]
Slots = int | Tensor | Sequence[int] | Array

_FLOAT32: Final = np.dtype(np.float32)
_BYTES: Final = {"highest": 4, "medium": 2, "int8": 1}  # of a weight


@final
class Streams:
    """The states of many streams in one LSTM, stepped one, some or all at a time.

        streams = Streams(lstm)
        y = streams.step(x)  # x [features] -> y [width]

        streams = Streams(lstm, slots=1000)
        slot = streams.open()
        y = streams.step(x, slot)  # x [features]: one of them
        y = streams.step(x, slots)  # x [n, features], slots int64 [n]: whoever came

    The weights are a copy: after changing those of the LSTM call `refresh`. For inference only: no gradient flows, and
    dropout is off. Two threads must not use one object at once; two objects they may. A copy (copy.deepcopy) or what
    pickle brings back has the states as they were, and packs the weights that its LSTM has by then.

    Args:
        lstm: a torch.nn.LSTM or holdfast.LSTM, an LSTMLayer or an LSTMStack of any cells and connections; float32 on
            the CPU, one direction. Zoneout is taken in its expectation.
        slots: how many streams there may be at once. A single one is open from the start, more are to be opened.
        precision: of the weights and of what they are multiplied with. "highest" is float32 and gives the very bits of
            the layer over the whole sequence (where a connection has weights: to rounding). "medium" is bfloat16.
            "int8" has a scale for every output channel of the weights, and for every x and h of every step. Sums,
            gates and states are float32 always.
        threads: at most so many; None stands for torch.get_num_threads(). Results do not depend on it.

    Attributes:
        input: float32 [features], or [slots, features] of more than one slot. `step(streams.input)` after filling it in
            place is the shortest way: there is nothing to check.
        width: how many elements h has, and what `step` returns.

        memory: the kernels' side: packed weights and states as they lie. For decoder.py, not for users.

    Raises:
        ValueError: an LSTM, a precision or a number that this is not made for.
        RuntimeError: there is no native engine here; the message says why.
    """

    def __init__(
        self, lstm: Steppable, slots: int = 1, *, precision: Precision = "highest", threads: int | None = None
    ) -> None:
        check_steppable(lstm)
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        threads = torch.get_num_threads() if threads is None else threads
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if not library.available():
            raise RuntimeError(f"streams need the native engine: {library.why_not()}")
        self.lstm = lstm
        shapes = shapes_of(lstm)
        self.slots = slots
        self.precision: Precision = precision
        self.features = shapes[0].features
        self.width = shapes[-1].width
        with torch.inference_mode(False):  # or nobody could write into the buffers outside of it
            self.memory = Memory(shapes, slots, PRECISIONS.index(precision), threads)
            self._prepare()
        self._closed = list(range(slots))[::-1]
        self.refresh()
        if slots == 1:
            self.open()

    def _prepare(self) -> None:
        """Everything a step needs, so that it makes nothing but the call."""
        memory, slots, features = self.memory, self.slots, self.features
        self._input = torch.zeros((slots, features) if slots > 1 else (features,))
        here = self._input.data_ptr()
        row = torch.zeros(features)  # where an array is copied to
        self._row: Array = row.numpy()
        self._row_at = row.data_ptr()
        self._output = torch.zeros(slots, self.width)
        self._all = self._output if slots > 1 else self._output[0]
        self._several_out = self._output[:0]
        # The shapes that one stream's x may have, and what is returned for each.
        self._answers: dict[Any, Tensor] = {(features,): self._output[0], (1, features): self._output[:1]}
        self._only_answers = self._answers if slots == 1 else {}
        self._slot = ctypes.c_int64()
        self._input_step = memory.new_step(slots, here, features, 0, self._output)
        self._slot_step = memory.new_step(1, here, features, ctypes.addressof(self._slot), self._output)
        self._several_step = memory.new_step(0, here, features, 0, self._output)
        steps = (self._input_step, self._slot_step, self._several_step)
        self._input_at, self._slot_at, self._several_at = (ctypes.byref(step) for step in steps)
        weights = sum(p.numel() for name, p in self.lstm.named_parameters() if "weight" in name)
        keeping = weights * _BYTES[self.precision] <= KEEPS_THE_LOCK
        self._step_several = memory.calls.step
        self._step_one = memory.calls.step_keeping_the_lock if keeping else memory.calls.step
        self._step_all = self._step_one if slots == 1 else self._step_several

    @property
    def input(self) -> Tensor:
        """float32 [features], or [slots, features] of more than one slot: to be filled in place."""
        return self._input

    def step(
        self,
        x: Tensor | Array,
        slots: Slots | None = None,
    ) -> Tensor:
        """One step of one stream, of some, or of all.

        Args:
            x: float32: [features] or [1, features] for one stream, [n, features] for several.
            slots: whose step it is: an int for one stream; int64 [n], all different, for several. None stands for the
                only slot or, where there are more, for all of them in order.

        Returns:
            h of the top layer: [width] or [1, width], or [n, width]. It stands in a buffer that the next step writes
            over: `.clone()` what you keep.

        Raises:
            ValueError: a shape or dtype does not fit; a slot is out of range, closed, or named twice. Nothing has
                changed then.
            RuntimeError: another thread is stepping these streams.
        """
        if x is self._input and slots is None:
            code = self._step_all(self._input_at)
            return self.refuse(code, None) if code else self._all
        if slots is None:
            answers = self._only_answers  # and the slot is 0, as it ever was
        elif type(slots) is int and 0 <= slots < self.slots:
            answers = self._answers
            self._slot.value = slots
        else:
            return self._step_any(x, slots)
        if type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu:
            answer = answers.get(x.shape)
            if answer is None or not x.is_contiguous() or x.is_neg() or not (place := x.data_ptr()):
                return self._step_any(x, slots)  # the last: torch's zeros that have no memory
            self._slot_step.x = place
        elif type(x) is np.ndarray and x.dtype is _FLOAT32:
            answer = answers.get(x.shape)
            if answer is None:
                return self._step_any(x, slots)
            self._row[...] = x  # cheaper than to ask an array where it stands
            self._slot_step.x = self._row_at
        else:
            return self._step_any(x, slots)
        code = self._step_one(self._slot_at)
        return self.refuse(code, [self._slot.value]) if code else answer

    def _step_any(self, x: Tensor | Array, slots: Slots | None) -> Tensor:
        """All other kinds of arguments."""
        x = tensor_of("x", x, torch.float32)
        if slots is None:
            slots = 0 if self.slots == 1 else None
        if not isinstance(slots, int | np.integer):
            return self._step_rows(x, slots)
        answer = self._answers.get(x.shape)
        if answer is None:
            shape = f"[{self.features}] or [1, {self.features}]"
            raise ValueError(f"x came with shape {list(x.shape)}; expected {shape} for one stream")
        if not 0 <= slots < self.slots:
            self.refuse(BAD_SLOT, [int(slots)])
        x = x.contiguous()
        self._slot.value = int(slots)
        self._slot_step.x = x.data_ptr()
        code = self._step_one(self._slot_at)
        return self.refuse(code, [int(slots)]) if code else answer

    def _step_rows(self, x: Tensor, slots: Tensor | Sequence[int] | Array | None) -> Tensor:
        """Several streams."""
        rows = self.slots
        if slots is not None:
            slots = tensor_of("slots", slots, torch.int64).contiguous()
            rows = slots.numel()
        if slots is not None and slots.dim() != 1:
            raise ValueError(f"slots came with shape {list(slots.shape)}; expected [n]")
        if x.shape != (rows, self.features):
            raise ValueError(f"x came with shape {list(x.shape)}; expected {[rows, self.features]}")
        if rows > self.slots:
            raise ValueError(f"{rows} slots were named; there are {self.slots}")
        x = x if x.stride(1) == 1 else x.contiguous()
        step = self._several_step
        step.rows, step.x, step.x_row = rows, x.data_ptr(), x.stride(0)
        step.slots = None if slots is None else slots.data_ptr()
        code = self._step_several(self._several_at)
        if code:
            self.refuse(code, None if slots is None else slots.tolist())
        if self._several_out.shape[0] != rows:
            self._several_out = self._output[:rows]
        return self._several_out

    def refuse(self, code: int, slots: list[int] | None) -> NoReturn:
        """Say what was wrong; the kernels only know that something was."""
        if code == BUSY:
            raise RuntimeError("another thread is stepping these streams; give every thread a Streams of its own")
        if code == BAD_SLOT:
            slots = list(range(self.slots)) if slots is None else slots
            for slot in slots:
                self.check_open(slot)
            twice = sorted({slot for slot in slots if slots.count(slot) > 1})
            raise ValueError(f"slot {twice[0]} is named {slots.count(twice[0])} times in one step")
        raise ValueError(library.words_for(code))

    def check_open(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is out of range; there are {self.slots}, from 0")
        if not self.memory.open[slot]:
            raise ValueError(f"slot {slot} is closed")

    def open(self) -> int:
        """Begin a stream: a slot for it, its state zero or the learnt one. RuntimeError where none is left."""
        if not self._closed:
            raise RuntimeError(f"all {self.slots} slots are open; close one, or make Streams with more of them")
        slot = self._closed.pop()
        self.memory.clear(slot)
        self.memory.open[slot] = 1
        return slot

    def close(self, slot: int) -> None:
        """End a stream. Its slot goes to one that is opened later."""
        self.check_open(slot)
        self.memory.open[slot] = 0
        self._closed.append(slot)

    def reset(self, slots: Slots | None = None) -> None:
        """Let these slots, open ones, begin anew, from zero or the learnt initial state; None: all."""
        if slots is None:
            self.memory.clear(slice(None))
            return
        chosen = [int(slots)] if isinstance(slots, int | np.integer) else [int(slot) for slot in slots]
        for slot in chosen:
            self.check_open(slot)
        self.memory.clear(torch.tensor(chosen, dtype=torch.int64))

    def refresh(self) -> None:
        """Pack the LSTM's weights anew, after they have changed. The states stay."""
        check_steppable(self.lstm)
        shapes = shapes_of(self.lstm)
        if shapes != self.memory.shapes:
            raise ValueError(
                f"these streams were made for {self.memory.shapes}; the LSTM has {shapes} now: make new Streams"
            )
        self.memory.pack(self.lstm)

    def states(self) -> State | list[State]:
        """The states themselves, not a copy.

        Of a torch.nn.LSTM h [layers, slots, width] and c [layers, slots, hidden]; of an LSTMLayer h [slots, width] and
        c [slots, hidden], of the exponential cell [3, slots, hidden]; of an LSTMStack a list of such, one per layer.
        """
        memory = self.memory
        if isinstance(self.lstm, nn.LSTM):
            return State(memory.h_rows[:, :, : self.width], memory.c_rows[:, :, : self.lstm.hidden_size])
        pairs = zip(memory.h, memory.c, strict=True)
        each = [State(h, c if c.shape[0] > 1 else c[0]) for h, c in pairs]
        return each if isinstance(self.lstm, LSTMStack) else each[0]

    def copy(self, sources: Slots, targets: Slots) -> None:
        """Let open slots go on from the states of others: target n gets that of source n. A beam search's way.

        All states are read before any is written, so both may name the same slots; a source may be named often.

        Raises:
            ValueError: a slot is closed or out of range, a target named twice, or there are not as many of either.
        """
        chosen, into = (
            tensor_of(name, [slots] if isinstance(slots, int | np.integer) else slots, torch.int64)
            for name, slots in (("sources", sources), ("targets", targets))
        )
        if chosen.dim() != 1 or chosen.shape != into.shape:
            raise ValueError(f"sources {list(chosen.shape)} and targets {list(into.shape)} must both be [n]")
        named: list[int] = into.tolist()
        for slot in {*chosen.tolist(), *named}:
            self.check_open(slot)
        if len(set(named)) < len(named):
            raise ValueError(f"a target is named twice: {named}")
        self.memory.copy(chosen, into)

    def state(self, slot: int = 0) -> bytes:
        """A stream's state, to be kept or moved to other Streams of the same LSTM, in whatever precision."""
        self.check_open(slot)
        memory = self.memory
        layers = [(h[slot], c[:, slot]) for h, c in zip(memory.h, memory.c, strict=True)]
        return state_to_bytes(layers, memory.shapes)

    def restore(self, state: bytes, slot: int = 0) -> None:
        """Let a stream go on from what `state` returned. ValueError where these bytes are no such thing."""
        self.check_open(slot)
        memory = self.memory
        for layer, (h, c) in enumerate(state_from_bytes(state, memory.shapes)):
            memory.h[layer][slot] = h
            memory.c[layer][:, slot] = c

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and pickles: the LSTM, whose weights are packed anew as they are then, and every slot's state."""
        states = [State(h.clone(), c.clone()) for h, c in zip(self.memory.h, self.memory.c, strict=True)]
        return _again, (self.lstm, self.slots, self.precision, self.memory.threads, tuple(self._closed), states)

    def go_on(self, closed: Sequence[int], states: Sequence[State]) -> None:
        """Take over what `__reduce__` gave away."""
        self._closed = list(closed)
        for slot in range(self.slots):
            self.memory.open[slot] = slot not in closed
        for layer, (h, c) in enumerate(states):
            self.memory.h[layer].copy_(h)
            self.memory.c[layer].copy_(c)


def _again(
    lstm: Steppable, slots: int, precision: Precision, threads: int, closed: Sequence[int], states: Sequence[State]
) -> Streams:
    """Streams that go on where others were when they were copied or pickled."""
    streams = Streams(lstm, slots, precision=precision, threads=threads)
    streams.go_on(closed, states)
    return streams

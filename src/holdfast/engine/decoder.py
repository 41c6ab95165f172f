"""A decoder with attention, one step at a time: LSTM, attention over the source, combining layer, log-softmax.

Luong, Pham & Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015, with dot
products and input feeding. For a hypothesis at one step, with a' its a of the step before:

    x      = [embedding of the token ; a']
    s      = the LSTM's output at x, from the hypothesis' own state
    e_j    = s . key_j,  alpha = softmax(e),  context = sum_j alpha_j value_j      over the steps j of its source
    a      = tanh(Wc [context ; s] + bc)
    result = log_softmax(Wo a + bo)

Decoding takes many steps of a few hypotheses, each bound by how fast the weights come out of the cache; Wc and Wo are
packed once, as those of Streams are.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from . import library
from .layer import LSTMLayer
from .pages import fresh_pages
from .stream import Precision, Slots, Streams
from .stream_layers import Steppable, tensor_of
from .stream_native import BAD_SLOT, BUSY

_BAD_TOKEN: Final = 8  # the library's BAD_TARGET

LayerState = tuple[Tensor, Tensor]


@final
class _Source(ctypes.Structure):
    """holdfast_source."""

    _fields_ = [("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("steps", ctypes.c_int64)]


@final
class _Decoder(ctypes.Structure):
    """holdfast_decoder."""

    _fields_ = [
        ("streams", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("embedded", "remembered", "combined", "vocabulary")),
        *((name, ctypes.c_void_p) for name in ("embedding", "sources", "source_of", "fed", "memory")),
    ]


@final
class _Weights(ctypes.Structure):
    """holdfast_decoder_weights."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("combine", "combine_bias", "output", "output_bias")]


@final
class _Step(ctypes.Structure):
    """holdfast_decoder_step."""

    _fields_ = [
        ("decoder", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("tokens", "slots", "result")),
        ("result_row", ctypes.c_int64),
        ("alpha", ctypes.c_void_p),
        ("alpha_row", ctypes.c_int64),
    ]


@final
class DecoderStep:
    """Hypotheses of any number of sources, stepped together.

        step = DecoderStep(lstm, embedding.weight, combine, output, slots=40)
        source = step.open_source(keys, values)  # of one sentence: [time, width of s] and [time, remembered]
        slot = step.open(source, state=(h, c))  # a hypothesis
        log_probabilities, alpha = step.step(tokens, slots)  # [n, vocabulary] and [n, longest source]
        step.copy(parents, slots)  # hypotheses go on from others, a beam search's way

    The weights are copies, but for the embedding, whose rows are read where they lie; after changing any, call
    `refresh`. For inference only. Two threads must not use one object at once; two objects they may.

    Args:
        lstm: what `Streams` take, over input_size = E + combine.out_features.
        embedding: [vocabulary, E] float32 on the CPU.
        combine: Wc and bc, from [context ; s] to a.
        output: Wo and bo, from a to the vocabulary.
        slots: how many hypotheses there may be at once.
        precision: of the LSTM's, combine's and output's weights and of what they are multiplied with, as in `Streams`.
            Attention, softmax and states are float32 always.
        threads: at most so many; None stands for torch.get_num_threads(). Results do not depend on it.

    Raises:
        ValueError: layers that do not fit each other, or what `Streams` refuse.
        RuntimeError: there is no native engine here; the message says why.
    """

    def __init__(
        self,
        lstm: Steppable,
        embedding: Tensor,
        combine: nn.Linear,
        output: nn.Linear,
        *,
        slots: int,
        precision: Precision = "highest",
        threads: int | None = None,
    ) -> None:
        self.embedding, self.combine, self.output, self.slots = embedding, combine, output, slots
        self.streams = Streams(lstm, slots, precision=precision, threads=threads)
        if slots == 1:
            self.streams.close(0)
        self._check_layers()
        vocabulary, embedded = embedding.shape
        combined, remembered = combine.out_features, combine.in_features - self.streams.width
        with torch.inference_mode(False):
            self._fed = torch.zeros(slots, combined)
            self._source_of = torch.zeros(slots, dtype=torch.int64)
            # Rows as long as whole panels of the kernels; nobody sees their ends.
            self._result = torch.zeros(slots, -(-vocabulary // 64) * 64)
            self._alpha = torch.zeros(slots, 16)
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}
        self._table = (_Source * 0)()
        self._answers: dict[int, tuple[Tensor, Tensor]] = {}
        dll = ctypes.CDLL(library.path())
        self._advance = dll["holdfast_decoder_advance"]
        self._pack = dll["holdfast_decoder_pack"]
        self._advance.restype = self._pack.restype = ctypes.c_int64
        self._decoder = _Decoder(self.streams.memory.address, embedded, remembered, combined, vocabulary)
        self._decoder.source_of, self._decoder.fed = self._source_of.data_ptr(), self._fed.data_ptr()
        self._step = _Step(ctypes.addressof(self._decoder), result=self._result.data_ptr())
        self._step.result_row = self._result.shape[1]
        self._step.alpha, self._step.alpha_row = self._alpha.data_ptr(), self._alpha.shape[1]
        self._step_at = ctypes.byref(self._step)
        self._take_weights()
        self._take_memory(dll)
        self._pack_weights()

    def _check_layers(self) -> None:
        streams, combine, output = self.streams, self.combine, self.output
        if self.embedding.dim() != 2:
            raise ValueError(f"embedding came with shape {list(self.embedding.shape)}; expected [vocabulary, E]")
        vocabulary, embedded = self.embedding.shape
        for name, got, wanted in (
            ("lstm's input_size", streams.features, embedded + combine.out_features),
            ("output.in_features", output.in_features, combine.out_features),
            ("output.out_features", output.out_features, vocabulary),
        ):
            if got != wanted:
                raise ValueError(
                    f"{name} is {got}; with an embedding {[vocabulary, embedded]} and a of {combine.out_features} it "
                    f"must be {wanted}"
                )
        if combine.in_features <= streams.width:
            raise ValueError(
                f"combine.in_features is {combine.in_features}; it must be the values' width and that of s, "
                f"{streams.width}"
            )

    def _take_weights(self) -> None:
        """The embedding where it lies; the linear layers adjacent, their shapes checked."""
        given = {
            "embedding": (self.embedding, (self._decoder.vocabulary, self._decoder.embedded)),
            "combine.weight": (self.combine.weight, (self.combine.out_features, self.combine.in_features)),
            "combine.bias": (self.combine.bias, (self.combine.out_features,)),
            "output.weight": (self.output.weight, (self.output.out_features, self.output.in_features)),
            "output.bias": (self.output.bias, (self.output.out_features,)),
        }
        taken: list[Tensor | None] = []
        for name, (t, shape) in given.items():
            if t is None:  # pyright: ignore[reportUnnecessaryComparison]  bias=False
                taken.append(None)
                continue
            if t.shape != shape:
                raise ValueError(f"{name} came with shape {list(t.shape)}; expected {list(shape)}")
            taken.append(tensor_of(name, t.detach(), torch.float32).contiguous())
        self._read, *self._packed = taken
        self._decoder.embedding = None if self._read is None else self._read.data_ptr()

    def _take_memory(self, dll: ctypes.CDLL) -> None:
        sizes, lay_out = dll["holdfast_decoder_bytes"], dll["holdfast_decoder_lay_out"]
        sizes.restype = lay_out.restype = ctypes.c_int64
        size = int(sizes(ctypes.byref(self._decoder)))
        if size < 0:
            raise ValueError(library.words_for(-size))
        self._pages, offset = fresh_pages(size)
        self._decoder.memory = ctypes.addressof(ctypes.c_char.from_buffer(self._pages)) + offset
        self._check(lay_out(ctypes.byref(self._decoder)))

    def _pack_weights(self) -> None:
        weights = _Weights(*(None if t is None else t.data_ptr() for t in self._packed))
        self._check(self._pack(ctypes.byref(self._decoder), ctypes.byref(weights)))
        self._packed = []

    def _check(self, code: int) -> None:
        if code:
            raise ValueError(library.words_for(code))

    def refresh(self) -> None:
        """Take all weights anew, after they have changed. The hypotheses stay."""
        self.streams.refresh()
        self._take_weights()
        self._pack_weights()

    def open_source(self, keys: Tensor, values: Tensor) -> int:
        """Something to attend to, for any number of hypotheses: a handle.

        Args:
            keys: [time, width of s], time at least 1: what s is compared with, memory @ Wa.
            values: [time, remembered]: the memory itself. Both are copied.
        """
        wanted = {"keys": self.streams.width, "values": int(self._decoder.remembered)}
        copies: list[Tensor] = []
        for name, t in (("keys", keys), ("values", values)):
            t = tensor_of(name, t, torch.float32)
            if t.dim() != 2 or t.shape[1] != wanted[name] or t.shape[0] < 1 or t.shape[0] != keys.shape[0]:
                raise ValueError(
                    f"keys {list(keys.shape)} and values {list(values.shape)} must be [time, {wanted['keys']}] and "
                    f"[time, {wanted['values']}], of the same time, at least 1"
                )
            copies.append(t.detach().clone(memory_format=torch.contiguous_format))
        handle = next(n for n in range(len(self._sources) + 1) if n not in self._sources)
        self._sources[handle] = (copies[0], copies[1])
        if handle >= len(self._table):
            grown = (_Source * max(8, 2 * len(self._table)))()
            ctypes.memmove(grown, self._table, ctypes.sizeof(self._table))
            self._table = grown
            self._decoder.sources = ctypes.addressof(grown)
        self._table[handle] = _Source(copies[0].data_ptr(), copies[1].data_ptr(), keys.shape[0])
        self._size_alpha()
        return handle

    def close_source(self, source: int) -> None:
        """Forget a source. ValueError while hypotheses of it are open, or where there is none."""
        self._check_source(source)
        here = [n for n in range(self.slots) if self.streams.memory.open[n] and int(self._source_of[n]) == source]
        if here:
            raise ValueError(f"source {source} still has open hypotheses, in slots {here}: close them first")
        del self._sources[source]
        self._table[source].steps = 0
        self._size_alpha()

    def _check_source(self, source: int) -> None:
        if source not in self._sources:
            raise ValueError(f"there is no source {source}; open are {sorted(self._sources)}")

    def _size_alpha(self) -> None:
        """alpha is as wide as the longest source that is open."""
        self._longest = max((keys.shape[0] for keys, _ in self._sources.values()), default=0)
        if self._longest > self._alpha.shape[1]:
            with torch.inference_mode(False):
                self._alpha = torch.zeros(self.slots, -(-self._longest // 16) * 16)
            self._step.alpha, self._step.alpha_row = self._alpha.data_ptr(), self._alpha.shape[1]
        self._answers.clear()

    def open(self, source: int, state: LayerState | Sequence[LayerState] | None = None) -> int:
        """Begin a hypothesis of this source: its slot. a' is zero.

        Args:
            source: a handle from `open_source`.
            state: the LSTM's, for one row: of a torch.nn.LSTM h [layers, width] and c [layers, hidden]; of an LSTMLayer
                h [width] and c [hidden], of the exponential cell [3, hidden]; of an LSTMStack a list of such pairs.
                None: what the LSTM itself begins with.

        Raises:
            ValueError: no such source, or a state of another shape.
            RuntimeError: all slots are taken.
        """
        self._check_source(source)
        layers = None if state is None else self._layers_of(state)
        slot = self.streams.open()
        self._source_of[slot] = source
        self._fed[slot] = 0
        memory = self.streams.memory
        for number, (h, c) in enumerate(layers or ()):
            memory.h[number][slot] = h
            memory.c[number][:, slot] = c
        return slot

    def _layers_of(self, state: LayerState | Sequence[LayerState]) -> list[LayerState]:
        """h [width] and c [memories, hidden] of every layer."""
        shapes, lstm = self.streams.memory.shapes, self.streams.lstm
        given: Any = [state] if isinstance(lstm, LSTMLayer) else state
        pairs: list[LayerState] = list(zip(*given, strict=True)) if isinstance(lstm, nn.LSTM) else list(given)
        if len(pairs) != len(shapes):
            raise ValueError(f"the state is of {len(pairs)} layers; the LSTM has {len(shapes)}")
        found: list[LayerState] = []
        for number, ((h, c), shape) in enumerate(zip(pairs, shapes, strict=True)):
            c_shape = (3, shape.hidden) if shape.memories == 3 else (shape.hidden,)
            if h.shape != (shape.width,) or c.shape != c_shape:
                raise ValueError(
                    f"layer {number}'s state came with shapes {list(h.shape)} and {list(c.shape)}; expected "
                    f"{[shape.width]} and {list(c_shape)}"
                )
            found.append((h.detach(), c.detach().view(shape.memories, shape.hidden)))
        return found

    def close(self, slot: int) -> None:
        """End a hypothesis."""
        self.streams.close(slot)

    def copy(self, sources: Slots, targets: Slots) -> None:
        """Let the hypotheses in the target slots go on from those in the source slots: states, a' and what they attend
        to. All are read before any is written. Errors as those of `Streams.copy`."""
        self.streams.copy(sources, targets)
        chosen, into = (torch.as_tensor(slots, dtype=torch.int64).reshape(-1) for slots in (sources, targets))
        self._fed.index_copy_(0, into, self._fed.index_select(0, chosen))
        self._source_of.index_copy_(0, into, self._source_of.index_select(0, chosen))

    def combined(self, slots: Slots) -> Tensor:
        """a of the last step of some hypotheses, [n, combined]; zero before the first."""
        return self._fed.index_select(0, torch.as_tensor(slots, dtype=torch.int64).reshape(-1))

    def step(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """One step of some hypotheses.

        Args:
            tokens: int64 [n], 0..vocabulary - 1: the word before, of each.
            slots: int64 [n], all different: whose.

        Returns:
            log-probabilities [n, vocabulary], and alpha [n, longest open source], zero past a row's own source.
            Both stand in buffers that the next step writes over.

        Raises:
            ValueError: a token outside the vocabulary, a slot that is closed, out of range or named twice, other shapes
                or dtypes. Nothing has changed then.
            RuntimeError: another thread is stepping these hypotheses.
        """
        tokens = tensor_of("tokens", tokens, torch.int64).contiguous()
        slots = tensor_of("slots", slots, torch.int64).contiguous()
        rows = slots.shape[0] if slots.dim() == 1 else -1
        if rows < 0 or tokens.shape != slots.shape:
            raise ValueError(f"tokens {list(tokens.shape)} and slots {list(slots.shape)} must both be [n]")
        if rows > self.slots:
            raise ValueError(f"{rows} slots were named; there are {self.slots}")
        step = self._step
        step.rows, step.tokens, step.slots = rows, tokens.data_ptr(), slots.data_ptr()
        code = self._advance(self._step_at)
        if code:
            self._refuse(code, tokens, slots)
        answer = self._answers.get(rows)
        if answer is None:
            with torch.inference_mode(False):
                answer = self._result[:rows, : self._decoder.vocabulary], self._alpha[:rows, : self._longest]
            self._answers[rows] = answer
        return answer

    def _refuse(self, code: int, tokens: Tensor, slots: Tensor) -> None:
        vocabulary = int(self._decoder.vocabulary)
        outside = [token for token in tokens.tolist() if not 0 <= token < vocabulary]
        if code == _BAD_TOKEN and outside:
            raise ValueError(f"token {outside[0]} is outside the vocabulary of {vocabulary}")
        if code in (BAD_SLOT, BUSY):
            self.streams.refuse(code, slots.tolist())
        raise ValueError(library.words_for(code))

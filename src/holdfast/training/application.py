"""The contract between one application and all that is the same for every application.

An application is a final frozen dataclass. Its fields are its settings: Python arguments, command-line flags and what
is saved in the model file are one and the same. It says what its examples are, what is learned from data before
training, what the network and the loss are, and how answers are made. It says nothing about files of models, progress,
devices, flags, ports or optimisers.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Generic, Literal, Self, TypeVar, final

import numpy as np
from torch import Tensor, nn

from ..parts import settings
from ..parts.settings import setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .model import Model

Example = TypeVar("Example")  # one thing to learn from; its answer may be missing when it is only asked about
Codec = TypeVar("Codec")  # facts found in the data: a frozen dataclass of JSON values and numpy arrays
Encoded = TypeVar("Encoded")  # examples in the form from which batches are cut
Batch = TypeVar("Batch")  # tensors, ready for the network
Output = TypeVar("Output")  # an answer, as people want it
Piece = TypeVar("Piece")  # what a stream is fed

# Who -> metric -> value. The first row is the model, the others are the baselines it must beat, on the same examples.
Scores = dict[str, dict[str, float]]
# Writes outputs into a file of its own kind.
Writer = Callable[[Sequence[Any], Path], None]
# A file, a folder, a data frame, or examples already read.
Source = Any


@dataclass(frozen=True)
class Loss:
    """A loss summed over ``count`` items, so that averages over unequal batches come out right."""

    total: Tensor  # [] summed over the items
    count: int
    parts: Mapping[str, Tensor] = dataclasses.field(default_factory=dict[str, Tensor])  # named, summed, for the log
    state: Any = None  # handed to the next batch of a continuing stream; the loop detaches it


@dataclass(frozen=True)
class Recipe:
    """How to train: what the loop needs to know, and what reaches the published score."""

    steps: int = setting(2000, "optimiser steps at most", low=1)
    batch: int = setting(64, "examples (or windows) per step", low=1)
    learning_rate: float = setting(1e-3, "peak learning rate", low=0.0)
    schedule: Literal["one-cycle", "cosine", "constant"] = setting("one-cycle", "how the learning rate moves")
    warmup: float = setting(0.1, "share of training in which the learning rate rises", low=0.0, high=1.0)
    weight_decay: float = setting(0.01, "decoupled weight decay (AdamW)", low=0.0)
    clip: float = setting(1.0, "largest norm of the gradient; it is clipped before the step", low=0.0)
    average: float = setting(0.0, "weight averaging: decay of the moving average, 0 for none", low=0.0, high=1.0)
    validate_every: int = setting(100, "steps between two looks at the validation loss", low=1)
    patience: int = setting(0, "looks without improvement before training stops, 0 for never", low=0)
    precision: Literal["highest", "high", "medium"] = setting(
        "highest", "of products while training, as torch names it; medium: bf16 factors where the CPU multiplies them"
    )
    seconds: float | None = setting(None, "time budget; the schedule is fitted to it", low=0.001)
    seed: int = setting(0, "seed of initial weights, order and dropout", low=0)

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True)
class Prose:
    """The column of rows() that is the whole answer to a person who reads."""

    column: str
    end: str = "\n"  # what stands behind each answer of a stream; nothing where an answer comes in pieces


@dataclass(frozen=True)
class Application(ABC, Generic[Example, Codec, Encoded, Batch, Output, Piece]):
    """One of the sixteen. Subclasses are final frozen dataclasses; every method below but fit is theirs to say."""

    task: ClassVar[str]  # the word on the command line
    summary: ClassVar[str]  # one line: what goes in, what comes out
    formats: ClassVar[Mapping[str, Writer]] = {}  # endings of files beyond tables, such as ".mid"
    prose: ClassVar["Prose | None"] = None  # text in, text out: what is printed where no table is asked for
    recipe: ClassVar[Recipe]  # reaches the published score
    codec_type: ClassVar[type]  # what prepare returns

    def __new__(cls, *args: object, **given: object) -> Self:
        settings.check_names(cls, given)  # before dataclass' own TypeError, which has no suggestion
        return super().__new__(cls)

    def __post_init__(self) -> None:
        settings.check(self)

    # --- examples -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, source: Source) -> list[Example]:
        """Files, folders or data frames -> examples. Raises DataError naming file, row and column."""

    @abstractmethod
    def synthesize(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Made-up examples from which something can be learned: for tests, a first run, a placeholder on the page."""

    @abstractmethod
    def split(self, examples: Sequence[Example], rng: np.random.Generator) -> tuple[list[Example], list[Example]]:
        """(train, validation) without leakage: by time, by person, by card, whatever the application demands."""

    @abstractmethod
    def prepare(self, examples: Sequence[Example]) -> Codec:
        """Facts found in the training examples: vocabulary, labels, scales."""

    def grow(self, before: Codec, fresh: Codec) -> Codec:
        """The facts with which a trained model goes on to learn: those of before, and what new examples may add."""
        return before

    def named_rows(self, codec: Codec) -> Mapping[str, Sequence[str]]:
        """Parameters whose rows stand for things with names, where grow() may add some."""
        return {}

    # --- learning -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def network(self, codec: Codec) -> nn.Module:
        """A new network. Its initial weights come from torch's generator, which the loop seeds.

        Every buffer must be persistent: a loaded network is built without memory and filled from the file.
        """

    @abstractmethod
    def encode(self, codec: Codec, examples: Sequence[Example]) -> Encoded:
        """Examples in the form from which batches are cut: once, not once per epoch. Or the examples as they are."""

    @abstractmethod
    def batches(self, codec: Codec, encoded: Encoded, size: int, rng: np.random.Generator | None) -> Iterator[Batch]:
        """One epoch. ``rng`` decides order and augmentation; None means validation: in order, nothing altered.

        The same ``encoded`` and the same ``rng`` give the same batches: that is what resuming rests on.
        """

    @abstractmethod
    def loss(self, net: nn.Module, batch: Batch, state: Any = None) -> Loss:
        """The loss of one batch. ``state`` is the previous batch's Loss.state, None at the start of an epoch."""

    @abstractmethod
    def calibrate(self, net: nn.Module, codec: Codec, examples: Sequence[Example]) -> Codec:
        """After training, on validation examples: thresholds, interval widths, temperatures. Or the codec as it is."""

    # --- answering ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, net: nn.Module, codec: Codec, inputs: Sequence[Example]) -> list[Output]:
        """One output per input, in order; alone or in a batch the same."""

    @abstractmethod
    def evaluate(self, net: nn.Module, codec: Codec, examples: Sequence[Example]) -> Scores:
        """The model's row first, then the trivial baselines', on the same examples."""

    @abstractmethod
    def stream(self, net: nn.Module, codec: Codec) -> "Stream[Piece, Output]":
        """A live stream: pushing a sequence in any chunks gives what predict gives for the whole."""

    @abstractmethod
    def pieces(self, source: BinaryIO) -> Iterator[Piece]:
        """What comes in on standard input or a socket, as pieces for the stream, as soon as they are complete."""

    @abstractmethod
    def rows(self, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Outputs as rows of one table: what ``holdfast run`` writes as CSV, JSON or Parquet."""

    @abstractmethod
    def draw(self, inputs: Sequence[Example], outputs: Sequence[Output]) -> "Figure":
        """A picture of the outputs that a person would want to look at."""

    @classmethod
    @abstractmethod
    def showcase(cls) -> "Showcase":
        """What ``holdfast demo`` shows: data that comes with Holdfast, and settings that learn it in under a minute."""

    # --- given to every application -----------------------------------------------------------------------------------

    @final
    def fit(
        self,
        data: Source,
        valid: Source | None = None,
        recipe: Recipe | None = None,
        *,
        start: "Model[Example, Codec, Encoded, Batch, Output, Piece] | None" = None,
    ) -> "Model[Example, Codec, Encoded, Batch, Output, Piece]":
        """Train on data (a path, a frame or examples) and return the best model seen on validation.

        Without ``valid`` a part of data is held out by split(). ``start`` is a trained model of the same settings: its
        weights and what it knows of its data are where this training begins.
        """
        from .run import train

        return train(self, data, valid, recipe, start)

    @final
    def examples(self, source: Source) -> list[Example]:
        """Examples from a source; examples already read pass through."""
        is_list = isinstance(source, Sequence) and not isinstance(source, (str, bytes)) and len(source) > 0
        if is_list and not any(isinstance(item, (str, Path)) for item in source):
            return list(source)
        return self.read(source)


@dataclass(frozen=True)
class Showcase:
    """A demonstration from nothing to a picture."""

    story: str  # what is about to happen, in a sentence or two
    application: Application[Any, Any, Any, Any, Any, Any]
    recipe: Recipe
    train: Source
    asked: Sequence[Any]  # examples without their answers
    answers: Sequence[Any]  # the same with them: for the scores and the picture


class Stream(ABC, Generic[Piece, Output]):
    """A model listening. Holds O(1) memory, whatever came before."""

    @abstractmethod
    def push(self, piece: Piece) -> Iterable[Output]:
        """Take the next piece; give what can be said now and will not be taken back.

        The outputs are to be read to the end: an application that generates may compute them while they are read.
        """

    @abstractmethod
    def flush(self) -> Iterable[Output]:
        """The sequence is over: give the rest, and be ready for a new one."""

    @abstractmethod
    def state(self) -> bytes:
        """All that was heard so far, as bytes: the stream can go on in another process."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Go on from state(). Raises DataError where the bytes are not a state of this model."""


def collect(stream: Stream[Piece, Output], pieces: Iterable[Piece]) -> Iterator[Output]:
    """All outputs of a stream fed with pieces, as they come."""
    for piece in pieces:
        yield from stream.push(piece)
    yield from stream.flush()

"""Activity recognition: what a wearer is doing, from accelerometers, gyroscopes and other sensors, on file and live."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from ..parts import classification, settings
from ..parts.classification import LinearClassifier
from ..parts.convolution import ConvolutionalLSTM
from ..parts.errors import DataError, SettingError
from ..parts.sensors import framing, inertial, timeline
from ..parts.sensors import made_up as motion
from ..parts.sensors.framing import Frame
from ..parts.sensors.inertial import Triad
from ..parts.sensors.listening import Listener
from ..parts.sensors.recording import Columns, Recording, read_lines, read_recordings
from ..parts.sensors.timeline import Timeline
from ..parts.sensors.window_classifier import BLOCK, WindowClassifier, probabilities_of, within
from ..parts.settings import setting
from ..training.application import Application, Loss, Recipe, Scores, Showcase, Source, Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("holdfast")

ENOUGH = 20_000  # windows from which scales and the linear baseline are found: 0.1 GB with six channels
LARGEST = 1e15  # the squares of larger values overflow in sums
HELD_OUT = 0.2  # share of people, or of each label's time, for validation


@dataclass(frozen=True)
class Activities:
    """Facts found in the training recordings."""

    labels: tuple[str, ...]
    channels: tuple[str, ...]
    triads: tuple[Triad, ...]
    mean: np.ndarray  # [features] float32: channels, then what triads measure along and across the upright
    scale: np.ndarray  # [features] float32, their standard deviation
    counts: tuple[int, ...]  # training windows per label
    linear: LinearClassifier  # the baseline
    temperature: float = 1.0  # makes the probabilities honest, found on the validation recordings


class Framed(NamedTuple):
    """Recordings at the network's rate, and the windows of one label in them."""

    grids: list[Recording]
    frames: list[Frame]


class Windows(NamedTuple):
    """A batch."""

    x: Tensor  # [batch, window, channels]
    y: Tensor  # [batch] int64, label numbers
    weight: Tensor  # [batch] how much each counts


@final
@dataclass(frozen=True)
class ActivityRecognizer(Application[Recording, Activities, Framed, Windows, Timeline, Recording]):
    """Sensor recordings -> a timeline of activities. The recordings may have any channels and come at any rate."""

    rate: float = setting(50.0, "samples per second the network sees; recordings are resampled", low=1.0)
    window: float = setting(2.56, "seconds the network looks at", low=0.1)
    hop: float = setting(1.28, "seconds between two windows, and between two answers", low=0.05)
    filters: int = setting(64, "convolution filters", low=1)
    hidden: int = setting(96, "memory cells per direction", low=1)
    layers: int = setting(1, "LSTM layers", low=1)
    members: int = setting(1, "networks trained side by side and averaged", low=1)
    dropout: float = setting(0.3, "share of features left out while training", low=0.0, high=0.95)
    rotation: float = setting(10.0, "degrees by which sensors are turned at random while training", low=0.0)
    gain: float = setting(0.1, "share by which channels are scaled at random while training", low=0.0)
    noise: float = setting(0.03, "noise added while training, in standard deviations", low=0.0)
    soften: float = setting(0.1, "share of a label's weight spread over all labels while training", low=0.0, high=0.9)
    balance: float = setting(0.0, "0: every window counts the same; 1: every label does", low=0.0, high=1.0)
    gap: float = setting(1.0, "longest gap in seconds that is filled by a straight line", low=0.0)
    smooth: int = setting(1, "neighbouring windows averaged on each side of an answer", low=0, use=True)
    time_column: str | None = setting(None, "column of times; found by its name where not given", use=True)
    label_column: str | None = setting(None, "column of labels", use=True)
    person_column: str | None = setting(None, "column that says who it was", use=True)
    recording_column: str | None = setting(None, "column that says which recording a row belongs to", use=True)
    source_rate: float | None = setting(None, "samples per second of tables without times", low=0.01, use=True)
    time_unit: Literal["s", "ms", "us", "ns"] | None = setting(None, "what times count; told by name if not", use=True)

    task: ClassVar[str] = "activity"
    summary: ClassVar[str] = "sensor recordings in, a timeline of activities out, on file and live"
    recipe: ClassVar[Recipe] = Recipe(
        steps=1200, batch=128, learning_rate=3e-3, warmup=0.2, weight_decay=0.01, validate_every=50
    )
    codec_type: ClassVar[type] = Activities

    def __post_init__(self) -> None:
        settings.check(self)
        hops = max(1, round(self.window / self.hop))
        if abs(self.window / self.hop - hops) > 1e-3:  # answers are means over the windows that cover a whole hop
            hint = f"hop={self.window / hops:g} would do"
            raise SettingError(f"a window of {self.window:g} s is no multiple of hop={self.hop:g} s", hint=hint)

    @property
    def window_samples(self) -> int:
        """Samples per window."""
        return round(self.window / self.hop) * self.hop_samples

    @property
    def hop_samples(self) -> int:
        """Samples from window to window."""
        return max(1, round(self.hop * self.rate))

    @property
    def columns(self) -> Columns:
        """Which column of a table is what."""
        named = (self.time_column, self.label_column, self.person_column, self.recording_column)
        return Columns(*named, self.source_rate, self.time_unit)

    # --- examples -----------------------------------------------------------------------------------------------------

    def read(self, source: Source) -> list[Recording]:
        """Tables, folders of tables or data frames -> recordings at the network's rate."""
        recordings = read_recordings(source, self.columns)
        found = [framing.gridded(recording, recording.channels, self.rate, self.gap) for recording in recordings]
        for recording in found:
            if len(recording) < self.window_samples:
                seconds = len(recording) / self.rate
                hint = f"recordings need at least one window, {self.window:g} s; --window at training sets it"
                raise DataError(f"{recording.name or 'the recording'} lasts {seconds:.2f} s", hint=hint)
        return found

    def synthesize(self, count: int, rng: np.random.Generator) -> list[Recording]:
        """Wearers of a phone who walk, stand and sit in turn, each in their own way, at 50 samples per second."""
        return [motion.made_up(f"made-up-{number}", rng) for number in range(count)]

    def split(self, examples: Sequence[Recording], rng: np.random.Generator) -> tuple[list[Recording], list[Recording]]:
        """By person; by recording where nobody says who it was; the end of every stretch where there is one only."""
        owners = [example.person or example.name for example in examples]
        people = sorted(set(owners))
        held: set[str] = set()
        if len(people) > 1:
            for person in rng.permutation(people)[: max(1, round(HELD_OUT * len(people)))].tolist():
                rest = [e for e, owner in zip(examples, owners, strict=True) if owner not in held | {person}]
                if self.labels_of(rest) == self.labels_of(examples):
                    held.add(person)
        if held:
            train = [e for e, owner in zip(examples, owners, strict=True) if owner not in held]
            return train, [e for e, owner in zip(examples, owners, strict=True) if owner in held]
        log.warning("one wearer only: the last %d %% of every stretch are held out for validation", 100 * HELD_OUT)
        framing.tell_labels(examples, self.frames(examples), self.rate, self.window_samples)
        train, valid = list[Recording](), list[Recording]()
        for example in examples:
            for first, end in framing.stretches(example, self.rate, by_label=True):
                middle = end - max(round(HELD_OUT * (end - first)), self.window_samples)
                if middle - first >= self.window_samples:
                    train.append(example.cut(first, middle))
                    valid.append(example.cut(middle, end))
                elif end - first >= self.window_samples:  # too short for both
                    train.append(example.cut(first, end))
        return train, valid

    def labels_of(self, examples: Sequence[Recording]) -> set[str]:
        """The labels for which there is a window."""
        return {frame.label for frame in self.frames(examples)}

    def frames(self, examples: Sequence[Recording]) -> list[Frame]:
        """All windows of one label. Raises DataError where there is none."""
        found = framing.frames(examples, self.rate, self.window_samples, self.hop_samples)
        if not found:
            hint = (
                f"a column of labels is needed (name it with --label-column), each lasting {self.window:g} s at least"
            )
            name = examples[0].name if examples else "no recording"
            raise DataError(f"{name or 'the recordings'}: nothing is labelled", hint=hint)
        return found

    def framed(self, examples: Sequence[Recording], channels: tuple[str, ...]) -> Framed:
        """Recordings with these channels at the network's rate, and their windows."""
        grids = [framing.gridded(example, channels, self.rate, self.gap) for example in examples]
        return Framed(grids, self.frames(grids))

    def prepare(self, examples: Sequence[Recording]) -> Activities:
        """Labels, channels, triads, scales, and the linear baseline."""
        channels = examples[0].channels
        grids, frames = self.framed(examples, channels)
        framing.tell_labels(grids, frames, self.rate, self.window_samples)
        labels = tuple(sorted({frame.label for frame in frames}))
        framing.tell_alike(labels)
        if len(labels) < 2:
            raise DataError(f"the only label is {frames[0].label!r}", hint="two at least are needed to tell them apart")
        counts = tuple(sum(frame.label == label for frame in frames) for label in labels)
        frames = frames[:: -(-len(frames) // ENOUGH)]
        x = framing.cut_frames(grids, frames, self.window_samples)  # [windows, window, channels]
        y = np.array([labels.index(frame.label) for frame in frames])
        if (largest := np.abs(x).max()) > LARGEST:
            name = channels[int(np.abs(x).max(axis=(0, 1)).argmax())]
            hint = "a sensor gives no such numbers: leave the values empty"
            raise DataError(f"the channel {name!r} reaches {largest:.3g}", hint=hint)
        triads = inertial.find_triads(channels, x.mean(axis=1))
        features = inertial.seen(x, triads)
        scale = np.maximum(features.std(axis=(0, 1)), 1e-6)
        linear = classification.fit_linear(framing.statistics(features), y, len(labels))
        return Activities(labels, channels, triads, features.mean(axis=(0, 1)), scale, counts, linear)

    # --- learning -----------------------------------------------------------------------------------------------------

    def network(self, codec: Activities) -> nn.Module:
        features, labels = len(codec.mean), len(codec.labels)
        members = [
            ConvolutionalLSTM(features, labels, self.filters, self.hidden, layers=self.layers, dropout=self.dropout)
            for _ in range(self.members)
        ]
        return WindowClassifier(codec.triads, codec.mean, codec.scale, members)

    def encode(self, codec: Activities, examples: Sequence[Recording]) -> Framed:
        return self.framed(examples, codec.channels)

    def batches(
        self, codec: Activities, encoded: Framed, size: int, rng: np.random.Generator | None
    ) -> Iterator[Windows]:
        grids, frames = encoded
        order = range(len(frames)) if rng is None else rng.permutation(len(frames)).tolist()
        counts = np.array(codec.counts, dtype=np.float64)
        weights = ((counts.mean() / counts) ** self.balance).astype(np.float32)
        for begin in range(0, len(order), size):
            chosen = [frames[number] for number in order[begin : begin + size]]
            if rng is not None:
                chosen = [framing.shifted(frame, self.hop_samples // 2, rng) for frame in chosen]
            x = framing.cut_frames(grids, chosen, self.window_samples)
            x = x if rng is None else self.vary(codec, x, rng)
            y = framing.label_numbers(chosen, codec.labels)
            yield Windows(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(weights[y]))

    def vary(self, codec: Activities, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Windows [batch, window, channels] as other wearers and sensors might have given them."""
        x = inertial.turn(x, codec.triads, self.rotation, rng)
        x = x * rng.normal(1.0, self.gain, size=(len(x), 1, x.shape[2])).astype(np.float32)
        spread = self.noise * codec.scale[: x.shape[2]]
        return x + spread * rng.standard_normal(size=x.shape, dtype=np.float32)

    def loss(self, net: nn.Module, batch: Windows, state: Any = None) -> Loss:
        logits = net(batch.x)  # [members, batch, labels]
        soften = self.soften if net.training else 0.0  # label smoothing, Szegedy et al., CVPR 2016, section 7
        each = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.y.repeat(len(logits)), reduction="none", label_smoothing=soften
        )  # [members * batch]; the sum over members trains each as if it were alone
        return Loss((each * batch.weight.repeat(len(logits))).sum() / len(logits), len(batch.y))

    def calibrate(self, net: nn.Module, codec: Activities, examples: Sequence[Recording]) -> Activities:
        y, probabilities, _ = self.judge(net, dataclasses.replace(codec, temperature=1.0), examples)
        return dataclasses.replace(codec, temperature=classification.best_temperature(y, probabilities))

    # --- answering ----------------------------------------------------------------------------------------------------

    def predict(self, net: nn.Module, codec: Activities, inputs: Sequence[Recording]) -> list[Timeline]:
        stream = ActivityStream(self, net, codec)
        nothing = Timeline("", codec.labels, np.empty(0), np.empty(0), np.empty((0, len(codec.labels)), np.float32))
        outputs: list[Timeline] = []
        for recording in inputs:
            parts = stream.push(recording) + stream.finish()
            if not parts:
                log.warning("%s: no stretch without a gap lasts a window", recording.name or "the recording")
            outputs += timeline.join(parts) or [dataclasses.replace(nothing, recording=recording.name)]
        return outputs

    def evaluate(self, net: nn.Module, codec: Activities, examples: Sequence[Recording]) -> Scores:
        """On windows of one label each, every one for itself."""
        y, probabilities, linear = self.judge(net, codec, examples)
        most = np.tile(np.array(codec.counts) / sum(codec.counts), (len(y), 1))
        rows = {"holdfast": probabilities, "linear": linear, "majority": most}
        table = {who: classification.scores(y, guess) for who, guess in rows.items()}
        classification.say_plainly(table, self.task)
        return table

    def judge(
        self, net: nn.Module, codec: Activities, examples: Sequence[Recording]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All windows of one label: label numbers [windows], ours and the linear probabilities [windows, labels]."""
        grids, frames = self.encode(codec, examples)
        ours: list[np.ndarray] = []
        linear: list[np.ndarray] = []
        for begin in range(0, len(frames), BLOCK):
            x = framing.cut_frames(grids, frames[begin : begin + BLOCK], self.window_samples)
            ours.append(probabilities_of(net, codec.temperature, x))
            x = within(x, codec.mean, codec.scale)
            linear.append(codec.linear.probabilities(framing.statistics(inertial.seen(x, codec.triads))))
        return framing.label_numbers(frames, codec.labels), np.concatenate(ours), np.concatenate(linear)

    def stream(self, net: nn.Module, codec: Activities) -> "ActivityStream":
        return ActivityStream(self, net, codec)

    def pieces(self, source: BinaryIO) -> Iterator[Recording]:
        return read_lines(source, self.columns)

    @classmethod
    def showcase(cls) -> Showcase:
        """Made-up wearers of a phone; three whom the network has never met are recognised."""
        train, full = (cls().synthesize(count, np.random.default_rng(seed)) for count, seed in ((12, 0), (3, 1)))
        story = "Twelve made-up people walk, stand and sit with a phone at the waist; then come three others."
        recipe = dataclasses.replace(cls.recipe, steps=150)
        return Showcase(story, cls(), recipe, train, [dataclasses.replace(one, labels=None) for one in full], full)

    def rows(self, outputs: Sequence[Timeline]) -> list[dict[str, Any]]:
        return timeline.interval_rows(outputs)

    def draw(self, inputs: Sequence[Recording], outputs: Sequence[Timeline]) -> "Figure":
        return timeline.draw_timelines(inputs, outputs)


@final
class ActivityStream(Listener, Stream[Recording, Timeline]):
    """Answers every hop, final once given."""

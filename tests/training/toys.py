"""A small application of the kind that carries its state: next character of a periodic text. For tests of the loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import nn

from holdfast.engine import LSTM
from holdfast.parts.errors import DataError
from holdfast.parts.packing import pack, unpack
from holdfast.parts.settings import setting
from holdfast.training.application import Application, Loss, Recipe, Scores, Showcase, Stream
from holdfast.training.batching import continuing


class Text(NamedTuple):
    letters: str


@dataclass(frozen=True)
class Letters:
    known: tuple[str, ...]
    counts: np.ndarray  # [letters] how often each was seen


class NextLetter(nn.Module):
    def __init__(self, letters: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, hidden)
        self.drop = nn.Dropout(dropout)
        self.lstm = LSTM(hidden, hidden)
        self.head = nn.Linear(hidden, letters)

    def forward(self, ids: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:  # ids [time, batch]
        y, state = self.lstm(self.drop(self.embed(ids)), state)
        return self.head(y), state


@final
@dataclass(frozen=True)
class Speller(Application[Text, Letters, list[np.ndarray], tuple[np.ndarray, np.ndarray], str, str]):
    hidden: int = setting(7, "memory cells", low=1)
    dropout: float = setting(0.1, "share of inputs forgotten", low=0.0, high=1.0)
    span: int = setting(5, "letters per step of truncated backpropagation", low=1)
    count: int = setting(3, "letters to predict", low=1, use=True)

    task: ClassVar[str] = "spell"
    summary: ClassVar[str] = "text in, more of it out"
    recipe: ClassVar[Recipe] = Recipe(steps=40, batch=3, learning_rate=0.02, validate_every=10, average=0.9)
    codec_type: ClassVar[type] = Letters

    def read(self, source: Any) -> list[Text]:
        raise DataError(f"{source!r} is not a list of texts", hint="hand in texts")

    def synthesize(self, count: int, rng: np.random.Generator) -> list[Text]:
        return [Text("abcad" * int(rng.integers(20, 30))) for _ in range(count)]

    def split(self, examples: Sequence[Text], rng: np.random.Generator) -> tuple[list[Text], list[Text]]:
        return list(examples[1:]), list(examples[:1])

    def prepare(self, examples: Sequence[Text]) -> Letters:
        text = "".join(example.letters for example in examples)
        known = tuple(sorted(set(text)))
        return Letters(known, np.array([text.count(letter) for letter in known], dtype=np.float32))

    def network(self, codec: Letters) -> nn.Module:
        return NextLetter(len(codec.known), self.hidden, self.dropout)

    def encode(self, codec: Letters, examples: Sequence[Text]) -> list[np.ndarray]:
        return [np.array([codec.known.index(letter) for letter in example.letters]) for example in examples]

    def batches(
        self, codec: Letters, encoded: list[np.ndarray], size: int, rng: np.random.Generator | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = range(len(encoded)) if rng is None else rng.permutation(len(encoded))
        yield from continuing(np.concatenate([encoded[n] for n in order]), size, self.span)

    def loss(self, net: nn.Module, batch: tuple[np.ndarray, np.ndarray], state: Any = None) -> Loss:
        inputs, targets = (torch.from_numpy(ids.T.copy()) for ids in batch)
        logits, state = net(inputs, state)
        total = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return Loss(total, targets.numel(), {"nats": total}, state)

    def calibrate(self, net: nn.Module, codec: Letters, examples: Sequence[Text]) -> Letters:
        return codec

    def predict(self, net: nn.Module, codec: Letters, inputs: Sequence[Text]) -> list[str]:
        answers: list[str] = []
        for (text,) in inputs:
            stream = self.stream(net, codec)
            answers.append("".join([*stream.push(text), *stream.flush()]))
        return answers

    def evaluate(self, net: nn.Module, codec: Letters, examples: Sequence[Text]) -> Scores:
        losses = [self.loss(net, batch) for batch in self.batches(codec, self.encode(codec, examples), 1, None)]
        nats = sum(float(loss.total) for loss in losses) / sum(loss.count for loss in losses)
        return {"holdfast": {"nats": nats}, "uniform": {"nats": float(np.log(len(codec.known)))}}

    def stream(self, net: nn.Module, codec: Letters) -> "SpellStream":
        return SpellStream(self, net, codec)

    def pieces(self, source: BinaryIO) -> Iterator[str]:
        for line in source:
            yield line.decode().strip()

    def rows(self, outputs: Sequence[str]) -> list[dict[str, Any]]:
        return [{"next": output} for output in outputs]

    @classmethod
    def showcase(cls) -> Showcase:
        examples = cls().synthesize(5, np.random.default_rng(0))
        return Showcase("letters", cls(), cls.recipe, examples[1:], [Text("abca")], examples[:1])

    def draw(self, inputs: Sequence[Text], outputs: Sequence[str]) -> Any:
        from matplotlib.figure import Figure

        return Figure()


class SpellStream(Stream[str, str]):
    def __init__(self, speller: Speller, net: nn.Module, codec: Letters) -> None:
        self.speller, self.net, self.codec = speller, net, codec
        self.hidden: Any = None
        self.likely = 0

    @torch.no_grad()
    def push(self, piece: str) -> list[str]:
        for letter in piece:
            ids = torch.tensor([[self.codec.known.index(letter)]])
            logits, self.hidden = self.net(ids, self.hidden)
            self.likely = int(logits.argmax())
        return []

    def flush(self) -> list[str]:
        text = ""
        for _ in range(self.speller.count):
            text += self.codec.known[self.likely]
            self.push(text[-1])
        self.hidden, self.likely = None, 0
        return [text]

    def state(self) -> bytes:
        arrays = {} if self.hidden is None else {"h": self.hidden[0].numpy(), "c": self.hidden[1].numpy()}
        return pack("spell", {"likely": self.likely}, arrays)

    def restore(self, state: bytes) -> None:
        values, arrays = unpack("spell", state)
        self.likely = values["likely"]
        self.hidden = (torch.from_numpy(arrays["h"]), torch.from_numpy(arrays["c"])) if arrays else None

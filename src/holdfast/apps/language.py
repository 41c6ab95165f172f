"""Language modelling: how a text goes on, and how surprising each of its words is."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from ..parts.errors import DataError
from ..parts.settings import setting
from ..parts.text import made_up, tokens
from ..parts.text.corpus import Text, decoded, read_texts
from ..parts.text.language_network import Dropout, LanguageNetwork, Penalties
from ..parts.text.ngrams import Bigrams, count_bigrams, unigrams_of
from ..parts.text.passages import Passage, PassageStream, draw_passages, passage_rows, write_html, write_text
from ..parts.text.sampling import Sampling
from ..parts.text.surprise import Cache, Reader
from ..parts.text.token_file import gathered
from ..parts.text.tokens import Vocabulary
from ..parts.text.writing import Wish
from ..training.application import Application, Loss, Prose, Recipe, Scores, Showcase, Source, Stream, Writer
from ..training.batching import continuing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELD_OUT = 0.1  # share at the end of each text, for validation


@dataclass(frozen=True)
class Language:
    """Facts found in the training texts."""

    vocabulary: Vocabulary
    bigrams: Bigrams  # the baseline


class Steps(NamedTuple):
    """A batch: streams that go on where the batch before ended."""

    inputs: Tensor  # [time, rows] int64
    targets: Tensor  # [time, rows] int64: the token that follows each


@final
@dataclass(frozen=True)
class LanguageModel(Application[Text, Language, np.ndarray, Steps, Passage, str]):
    """Text in, its continuation or its surprise out."""

    unit: Literal["characters", "words", "subwords"] = setting("subwords", "what a token is")
    vocabulary: int = setting(8000, "tokens at most", low=2)
    width: int = setting(512, "width of the embeddings and of the last layer", low=1)
    hidden: int = setting(512, "memory cells of the other layers", low=1)
    layers: int = setting(2, "LSTM layers", low=1)
    dropout: float = setting(0.3, "share of every layer's input left out while training", low=0.0, high=0.95)
    dropout_words: float = setting(0.1, "share of all words left out while training", low=0.0, high=0.95)
    weight_drop: float = setting(0.3, "share of the recurrent weights left out while training", low=0.0, high=0.95)
    size_penalty: float = setting(0.0, "weight of the last layer's mean square, added to the loss", low=0.0)
    change_penalty: float = setting(0.0, "weight of its change's mean square from token to token", low=0.0)
    back: int = setting(100, "tokens that the gradient goes back", low=2)
    negatives: int = setting(0, "tokens a target is told from while training; 0 for all", low=0)
    answer: Literal["continue", "surprise"] = setting("continue", "how the text goes on, or how likely it is", use=True)
    length: int = setting(200, "tokens to be written at most", low=1, use=True)
    temperature: float = setting(0.8, "0 writes the likeliest token, more is wilder", low=0.0, use=True)
    top_k: int = setting(0, "draw from so many likeliest tokens, 0 for all", low=0, use=True)
    top_p: float = setting(0.95, "draw from the likeliest tokens of this probability", low=0.01, high=1.0, use=True)
    repetition: float = setting(1.0, "divides the odds of tokens just used", low=0.01, use=True)
    no_repeat: int = setting(0, "no run of so many tokens twice, 0 for any", low=0, use=True)
    stop: tuple[str, ...] = setting((), "texts before which writing ends", use=True)
    sampling_seed: int = setting(0, "seed of the dice that choose tokens", low=0, use=True)
    cache: int = setting(0, "tokens in the neural cache, 0 for none", low=0, use=True)
    cache_share: float = setting(0.1, "the cache's share of the answer", low=0.0, high=0.99, use=True)
    cache_flatness: float = setting(0.3, "how sharply the cache looks for like states", low=0.0, use=True)
    adapt: float = setting(0.0, "rate at which eval goes on learning from what it reads", low=0.0, use=True)

    task: ClassVar[str] = "language"
    summary: ClassVar[str] = "text in, its continuation, perplexity and surprise per token out"
    formats: ClassVar[dict[str, Writer]] = {".txt": write_text, ".html": write_html}
    prose: ClassVar[Prose] = Prose("text", end="")
    recipe: ClassVar[Recipe] = Recipe(
        steps=8000,
        batch=64,
        learning_rate=3e-3,
        weight_decay=0.02,
        clip=0.5,
        validate_every=400,
        average=0.999,
        precision="medium",
    )
    codec_type: ClassVar[type] = Language

    # --- examples -----------------------------------------------------------------------------------------------------

    def read(self, source: Source) -> list[Text]:
        return read_texts(source)

    def synthesize(self, count: int, rng: np.random.Generator) -> list[Text]:
        """Short stories that nobody wrote, of simple sentences."""
        return [Text(f"made-up-{number}", made_up.story(rng)) for number in range(count)]

    def split(self, examples: Sequence[Text], rng: np.random.Generator) -> tuple[list[Text], list[Text]]:
        """The end of each text is held out."""
        pairs = [example.cut(1 - HELD_OUT) for example in examples]
        train, valid = ([text for text in side if text] for side in zip(*pairs, strict=True))
        if not valid or not train:
            raise DataError("the texts are too short to hold a part of them out", hint="hand in more, or --valid")
        return train, valid

    def prepare(self, examples: Sequence[Text]) -> Language:
        pieces = (piece for example in examples for piece in example.pieces())
        vocabulary = tokens.learn(pieces, self.unit, self.vocabulary)
        stream = (part for example in examples for part in tokens.encoded(vocabulary, example.pieces()))
        return Language(vocabulary, count_bigrams(stream, len(vocabulary), vocabulary.start))

    # --- learning -----------------------------------------------------------------------------------------------------

    def network(self, codec: Language) -> nn.Module:
        dropout = Dropout(self.dropout_words, self.dropout, self.weight_drop)
        counts = torch.from_numpy(codec.vocabulary.counts)
        penalties = Penalties(self.size_penalty, self.change_penalty)
        return LanguageNetwork(counts, self.width, self.hidden, self.layers, dropout, self.negatives, penalties)

    def encode(self, codec: Language, examples: Sequence[Text]) -> np.ndarray:
        """All tokens, one text after the other, each behind a start; on disk where they are many."""
        start = np.array([codec.vocabulary.start])
        streams = ([start], *(tokens.encoded(codec.vocabulary, example.pieces()) for example in examples))
        return gathered((part for stream in streams for part in stream), len(codec.vocabulary))

    def batches(
        self, codec: Language, encoded: np.ndarray, size: int, rng: np.random.Generator | None
    ) -> Iterator[Steps]:
        rows = max(1, min(size, (len(encoded) - 1) // self.back))
        for inputs, targets in continuing(encoded, rows, self.back, rng):
            yield Steps(*(torch.from_numpy(part.T.astype(np.int64)) for part in (inputs, targets)))

    def loss(self, net: nn.Module, batch: Steps, state: Any = None) -> Loss:
        assert isinstance(net, LanguageNetwork)
        fits = state is not None and state[0][0].shape[0] == batch.inputs.shape[1]
        h, after = net(batch.inputs, state if fits else None)
        return Loss(net.loss(h, batch.targets), batch.targets.numel(), state=after)

    def calibrate(self, net: nn.Module, codec: Language, examples: Sequence[Text]) -> Language:
        return codec

    # --- answering ----------------------------------------------------------------------------------------------------

    @property
    def wish(self) -> Wish:
        sampling = Sampling(self.temperature, self.top_k, self.top_p, self.repetition, no_repeat=self.no_repeat)
        return Wish(self.length, sampling, self.stop, self.sampling_seed)

    def reader(self, net: nn.Module, codec: Language, rate: float = 0.0) -> Reader:
        assert isinstance(net, LanguageNetwork)
        cache = Cache(self.cache, self.cache_share, self.cache_flatness)
        return Reader(net, codec.vocabulary.start, cache, rate)

    def predict(self, net: nn.Module, codec: Language, inputs: Sequence[Text]) -> list[Passage]:
        outputs: list[Passage] = []
        for text in inputs:
            stream = self.stream(net, codec)
            parts = [part for piece in text.pieces() for part in stream.push(piece)]
            outputs.append(Passage.joined(text.name, [*parts, *stream.flush()]))
        return outputs

    def evaluate(self, net: nn.Module, codec: Language, examples: Sequence[Text]) -> Scores:
        """Perplexity per token of all texts one after the other, the state carried over; bits per letter."""
        vocabulary, unigrams = codec.vocabulary, unigrams_of(codec.vocabulary.counts)
        reader, last = self.reader(net, codec, self.adapt), vocabulary.start
        surprise = {"holdfast": 0.0, "bigrams": 0.0, "unigrams": 0.0}
        count = letters = 0
        for text in examples:
            letters += sum(len(piece) for piece in text.pieces())
            for part in tokens.encoded(vocabulary, text.pieces()):
                if not len(part):
                    continue
                before, last = np.concatenate([[last], part[:-1]]), int(part[-1])
                surprise["holdfast"] += float(reader.read(part).sum(dtype=np.float64))
                surprise["bigrams"] += float(codec.bigrams.surprise(before, part, unigrams).sum())
                surprise["unigrams"] += float(-np.log(unigrams[part]).sum())
                count += len(part)
        return {who: judged(total, count, letters) for who, total in surprise.items()}

    def stream(self, net: nn.Module, codec: Language) -> Stream[str, Passage]:
        writing = self.wish if self.answer == "continue" else None
        return LanguageStream(self.reader(net, codec), codec.vocabulary, writing)

    def pieces(self, source: BinaryIO) -> Iterator[str]:
        return decoded(source)

    @classmethod
    def showcase(cls) -> Showcase:
        """A network learns to write simple stories."""
        train, held = (cls().synthesize(count, np.random.default_rng(seed)) for count, seed in ((300, 0), (20, 1)))
        app = cls(unit="words", width=64, hidden=64, layers=1, length=60)
        recipe = dataclasses.replace(cls.recipe, steps=300, batch=16, validate_every=50)
        beginnings = [Text(one.name, one.content.split("\n")[0] + "\n") for one in held[:3]]
        return Showcase(
            "Three hundred made-up stories are read; three more are begun.", app, recipe, train, beginnings, held
        )

    def rows(self, outputs: Sequence[Passage]) -> list[dict[str, Any]]:
        return passage_rows(outputs)

    def draw(self, inputs: Sequence[Text], outputs: Sequence[Passage]) -> "Figure":
        return draw_passages(outputs)


def judged(nats: float, count: int, letters: int) -> dict[str, float]:
    """Of a total surprise: what is usually told."""
    mean = nats / max(1, count)
    bits = nats / math.log(2) / max(1, letters)
    return {"perplexity": math.exp(min(mean, 700.0)), "nats_per_token": mean, "bits_per_character": bits}


@final
class LanguageStream(PassageStream, Stream[str, Passage]):
    """Reads a text as it comes; in the end it writes on."""

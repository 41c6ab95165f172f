"""Translation: a line in one language in, the same in another language out."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..parts.errors import DataError
from ..parts.packing import pack, unpack
from ..parts.settings import setting
from ..parts.text import made_up_pairs, tokens
from ..parts.text.alignment import draw_alignments
from ..parts.text.beam import Search
from ..parts.text.bleu import judge
from ..parts.text.lexicon import Lexicon, learn_lexicon
from ..parts.text.pairs import Pair, Sides, arriving_sources, read_pairs
from ..parts.text.parallel import Parallel, held_out, in_numbers, references_of
from ..parts.text.tokens import Vocabulary
from ..parts.text.translating import Translating, Translation, spaced, translation_rows, write_lines
from ..parts.text.translation_ensemble import TranslationEnsemble
from ..parts.text.translation_network import IGNORED, Dropout, Sizes, TranslationNetwork
from ..training.application import Application, Loss, Prose, Recipe, Scores, Showcase, Source, Stream, Writer
from ..training.batching import bucketed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("holdfast")

HELD_OUT = 0.05  # share of the pairs for validation
MOST_HELD_OUT = 2000  # pairs for validation at most


@dataclass(frozen=True)
class Bilingual:
    """Facts found in the training pairs."""

    vocabulary: Vocabulary  # of both languages
    lexicon: Lexicon  # the baseline; and which words of the source were met


class Steps(NamedTuple):
    """A batch; time first."""

    source: Tensor  # [time, batch] int64
    lengths: Tensor  # [batch] int64
    before: Tensor  # [steps, batch] int64: the token before each of the translation's
    targets: Tensor  # [steps, batch] int64, IGNORED past a row's end


@final
@dataclass(frozen=True)
class Translator(Application[Pair, Bilingual, Parallel, Steps, Translation, list[str]]):
    """Lines of one language -> lines of another, with alignment."""

    vocabulary: int = setting(8000, "subwords of both languages together, at most", low=256)
    width: int = setting(256, "width of the embeddings, which both languages and the output share", low=1)
    hidden: int = setting(512, "memory cells of a decoder layer; half as many of each encoder direction", low=2)
    encoder_layers: int = setting(1, "bidirectional LSTM layers that read", low=1)
    decoder_layers: int = setting(1, "LSTM layers that write", low=1)
    members: int = setting(
        1, "networks that learn apart and write together; training takes as many times longer", low=1
    )
    input_feeding: bool = setting(True, "what attention found goes into the next step, too")
    dropout: float = setting(0.4, "share of features left out while training", low=0.0, high=0.95)
    dropout_words: float = setting(0.1, "share of all subwords left out while training", low=0.0, high=0.95)
    weight_drop: float = setting(0.0, "share of the recurrent weights left out while training", low=0.0, high=0.95)
    bpe_dropout: float = setting(0.1, "share of merges passed over when training texts are cut", low=0.0, high=0.9)
    smoothing: float = setting(0.1, "share of the target's probability spread over all tokens", low=0.0, high=0.9)
    longest: int = setting(100, "subwords of a sentence that is learned from", low=2)
    beam: int = setting(5, "hypotheses kept open; 1 takes the likeliest subword each time", low=1, use=True)
    n_best: int = setting(1, "translations per line", low=1, use=True)
    diversity: float = setting(0.0, "how far the n best are from each other; 0: as the beam has it", low=0.0, use=True)
    length_penalty: float = setting(1.0, "0 prefers short translations, more longer ones", low=0.0, use=True)
    coverage_penalty: float = setting(0.0, "how much a word that nothing looked at costs", low=0.0, use=True)
    no_repeat: int = setting(0, "no run of so many subwords twice, 0 for any", low=0, use=True)
    max_length_ratio: float = setting(2.0, "subwords per subword of the source, at most", low=0.1, use=True)
    min_length: int = setting(0, "subwords of a translation, at least", low=0, use=True)
    copy: bool = setting(False, "numbers and unknown words are copied from the source", use=True)
    decoder_precision: Literal["highest", "medium", "int8"] = setting("highest", "of the weights that write", use=True)
    bleu_tokens: Literal["13a", "none", "intl", "char"] = setting(
        "13a", "how eval cuts words; none: the text is cut by spaces", use=True
    )
    source_column: str | None = setting(None, "column, or language in TMX; found by name where not given", use=True)
    target_column: str | None = setting(None, "column, or language in TMX, of the translations", use=True)

    task: ClassVar[str] = "translate"
    summary: ClassVar[str] = "lines in one language in, lines in another out, with n-best and alignment"
    formats: ClassVar[dict[str, Writer]] = {".txt": write_lines}
    prose: ClassVar[Prose] = Prose("text")
    recipe: ClassVar[Recipe] = Recipe(
        steps=6000,
        batch=96,
        learning_rate=2e-3,
        weight_decay=0.01,
        validate_every=300,
        average=0.998,
        precision="medium",
    )
    codec_type: ClassVar[type] = Bilingual

    @property
    def sides(self) -> Sides:
        """Which column of a table is what."""
        return Sides(self.source_column, self.target_column)

    # --- examples -----------------------------------------------------------------------------------------------------

    def read(self, source: Source) -> list[Pair]:
        return read_pairs(source, self.sides)

    def synthesize(self, count: int, rng: np.random.Generator) -> list[Pair]:
        """Sentences in a made-up language whose adjectives follow the noun and whose verbs come last."""
        return [Pair(*made_up_pairs.sentence(rng)) for _ in range(count)]

    def split(self, examples: Sequence[Pair], rng: np.random.Generator) -> tuple[list[Pair], list[Pair]]:
        """Some sentences with all their translations; neither they nor those are learned from."""
        train, valid = held_out(examples, min(HELD_OUT, MOST_HELD_OUT / max(1, len(examples))), rng)
        if not train or not valid:
            raise DataError("there are too few pairs to hold some of them out", hint="hand in more, or --valid")
        return train, valid

    def prepare(self, examples: Sequence[Pair]) -> Bilingual:
        pairs = [(one.source, one.target) for one in examples if one.source and one.target]
        if not pairs:
            hint = "two columns, two parallel files, or --target-column"
            raise DataError("no line has a translation to learn from", hint=hint)
        texts = (f"{spaced(text)}\n" for pair in pairs for text in pair)
        return Bilingual(tokens.learn(texts, "subwords", self.vocabulary), learn_lexicon(pairs))

    # --- learning -----------------------------------------------------------------------------------------------------

    def network(self, codec: Bilingual) -> nn.Module:
        sizes = Sizes(self.width, self.hidden, self.encoder_layers, self.decoder_layers)
        dropout = Dropout(self.dropout_words, self.dropout, self.weight_drop)
        given = len(codec.vocabulary), sizes, dropout, self.input_feeding, self.smoothing
        return TranslationNetwork(*given) if self.members == 1 else TranslationEnsemble(self.members, *given)

    def encode(self, codec: Bilingual, examples: Sequence[Pair]) -> Parallel:
        """Pairs as tokens; those without one side, or too long, are left out."""
        pairs = [(one.source, one.target) for one in examples if one.source and one.target]
        encoded = in_numbers(codec.vocabulary, pairs, self.bpe_dropout)
        kept = encoded.no_longer_than(self.longest)
        if len(kept) < len(pairs):
            log.info("%d of %d pairs have more than %d subwords", len(pairs) - len(kept), len(pairs), self.longest)
        return kept

    def batches(
        self, codec: Bilingual, encoded: Parallel, size: int, rng: np.random.Generator | None
    ) -> Iterator[Steps]:
        end = torch.tensor([codec.vocabulary.start])
        items = encoded.sentences(rng)
        for batch in bucketed(items, size, rng, lambda one: len(one[1]) + len(one[0]) / 1000):
            sources = [torch.cat([torch.from_numpy(one[0]), end]) for one in batch]
            targets = [torch.from_numpy(one[1]) for one in batch]
            yield Steps(
                pad_sequence(sources),
                torch.tensor([len(one) for one in sources]),
                pad_sequence([torch.cat([end, one]) for one in targets]),
                pad_sequence([torch.cat([one, end]) for one in targets], padding_value=IGNORED),
            )

    def loss(self, net: nn.Module, batch: Steps, state: Any = None) -> Loss:
        assert isinstance(net, TranslationNetwork | TranslationEnsemble)
        a = net(net.encode(batch.source, batch.lengths), batch.before)
        return Loss(net.loss(a, batch.targets), int((batch.targets != IGNORED).sum()))

    def calibrate(self, net: nn.Module, codec: Bilingual, examples: Sequence[Pair]) -> Bilingual:
        return codec

    # --- answering ----------------------------------------------------------------------------------------------------

    def translating(self, net: nn.Module, codec: Bilingual) -> Translating:
        assert isinstance(net, TranslationNetwork | TranslationEnsemble)
        search = Search(
            max(self.beam, self.n_best),
            self.n_best,
            self.length_penalty,
            self.coverage_penalty,
            self.no_repeat,
            self.max_length_ratio,
            self.min_length,
            diversity=self.diversity,
        )
        known = codec.lexicon.known if self.copy else None
        return Translating(net, codec.vocabulary, search, known, self.decoder_precision)

    def predict(self, net: nn.Module, codec: Bilingual, inputs: Sequence[Pair]) -> list[Translation]:
        return self.translating(net, codec).translate([one.source for one in inputs])

    def evaluate(self, net: nn.Module, codec: Bilingual, examples: Sequence[Pair]) -> Scores:
        """BLEU and chrF; all translations of one source are its references. Beside it the source itself, and a lexicon
        word by word."""
        references = references_of(examples)
        if not references:
            raise DataError("no line has a translation to compare with", hint="hand in pairs, or name --target-column")
        texts = list(references)
        ours = [one.text for one in self.translating(net, codec).translate(texts)]
        whose = {"holdfast": ours, "word by word": [codec.lexicon.translate(text) for text in texts], "copy": texts}
        return {who: judge(said, list(references.values()), self.bleu_tokens) for who, said in whose.items()}

    def stream(self, net: nn.Module, codec: Bilingual) -> Stream[list[str], Translation]:
        return TranslationStream(self.translating(net, codec))

    def pieces(self, source: BinaryIO) -> Iterator[list[str]]:
        return arriving_sources(source, self.sides)

    @classmethod
    def showcase(cls) -> Showcase:
        """A made-up language is learned, in which adjectives follow the noun and verbs come last."""
        train, held = (cls().synthesize(count, np.random.default_rng(seed)) for count, seed in ((2000, 0), (40, 1)))
        app = cls(vocabulary=400, width=48, hidden=64, dropout=0.1, dropout_words=0.0, bpe_dropout=0.0)
        recipe = dataclasses.replace(cls.recipe, steps=400, batch=32, learning_rate=5e-3, validate_every=100, average=0)
        asked = [Pair(one.source) for one in held]
        return Showcase("Two thousand sentences in a made-up language; forty more.", app, recipe, train, asked, held)

    def rows(self, outputs: Sequence[Translation]) -> list[dict[str, Any]]:
        return translation_rows(outputs)

    def draw(self, inputs: Sequence[Pair], outputs: Sequence[Translation]) -> "Figure":
        return draw_alignments(outputs)


@final
class TranslationStream(Stream[list[str], Translation]):
    """Every line is answered at once; nothing is remembered."""

    def __init__(self, translating: Translating) -> None:
        self.translating = translating
        self.kind = f"translate {len(translating.vocabulary)} subwords, {translating.net.sizes.hidden} cells"

    def push(self, piece: list[str]) -> list[Translation]:
        return self.translating.translate(piece)

    def flush(self) -> list[Translation]:
        return []

    def state(self) -> bytes:
        return pack(self.kind, {}, {})

    def restore(self, state: bytes) -> None:
        unpack(self.kind, state)

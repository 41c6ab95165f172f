"""A network that reads a message after what was said before it: what is wanted, and which details are named.

Wide and deep (Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016): weighted n-grams remember which
phrases mean what, bidirectional LSTMs over words and their letters generalise. Several of the latter are trained at
once and averaged (Hansen & Salamon, "Neural Network Ensembles", IEEE TPAMI 12(10), 1990).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from holdfast.engine import Cell, LSTMStack

from .message_vocabulary import IGNORED, OWN, ROLES, UNKNOWN, Message, MessageFacts

WIDE_SCALE: Final = 5.0  # of the n-grams' weights: a step of Adam then moves a logit as far as a step of a reader does


class Messages(NamedTuple):
    """A batch; time first. Different words are spelled once."""

    words: Tensor  # [time, batch] int64: places among the different words
    roles: Tensor  # [time, batch] int64: whose each is, OWN past a row's end
    lengths: Tensor  # [batch] int64, at least 1
    numbers: Tensor  # [different] int64: their numbers in the vocabulary
    letters: Tensor  # [letters] int64: n-grams of letters of all different words, one word after the other
    letter_begins: Tensor  # [different] int64
    grams: Tensor  # [grams] int64: n-grams of all messages, one message after the other
    weights: Tensor  # [grams]
    gram_begins: Tensor  # [batch] int64
    intents: Tensor  # [batch] int64, IGNORED where nobody said
    tags: Tensor  # [time, batch] int64, IGNORED where nobody said and past a row's end


def gather(facts: MessageFacts, messages: Sequence[Message]) -> Messages:
    """Messages as a batch."""
    places: dict[str, int] = {}
    rows = [torch.tensor([places.setdefault(word, len(places)) for word in one.words]) for one in messages]
    letters = [facts.spelling(word) for word in places]
    grams = [one.grams for one in messages]
    return Messages(
        words=pad_sequence(rows),
        roles=pad_sequence([torch.from_numpy(one.roles) for one in messages]),
        lengths=torch.tensor([len(row) for row in rows]),
        numbers=torch.tensor([facts.numbers.get(word, UNKNOWN) for word in places]),
        letters=torch.from_numpy(np.concatenate(letters)),
        letter_begins=begins(letters),
        grams=torch.from_numpy(np.concatenate(grams)),
        weights=torch.from_numpy(np.concatenate([one.weights for one in messages])),
        gram_begins=begins(grams),
        intents=torch.tensor([one.intent for one in messages]),
        tags=pad_sequence([torch.from_numpy(one.tags) for one in messages], padding_value=IGNORED),
    )


def begins(rows: Sequence[np.ndarray]) -> Tensor:
    """Where each of the rows begins when they stand one after the other, [rows] int64."""
    return torch.from_numpy(np.cumsum([0, *(len(row) for row in rows[:-1])], dtype=np.int64))


class Sizes(NamedTuple):
    """How large the parts are."""

    width: int  # of the embeddings
    hidden: int  # memory cells of each direction of each layer
    layers: int
    members: int  # readers that are averaged, at least 1


class Rates(NamedTuple):
    """What keeps the network from learning by heart; in training only."""

    words: float = 0.0  # share of the words that are not seen
    features: float = 0.0  # share left out of every layer's input
    grams: float = 0.0  # share of the n-grams left out
    recurrent: float = 0.0  # share of the elements of R left out
    smoothing: float = 0.0  # share of an intent's probability that is spread over all
    mixup: float = 0.0  # messages are mixed in pairs, by shares of Beta(mixup, mixup); 0 for none


class Answers(NamedTuple):
    """What a batch of messages was understood as, by every voice."""

    intents: Tensor  # [1 + members, batch, classes] logits, the wide part's first
    tags: Tensor  # [members, time, batch, tags] logits


class MessageLoss(NamedTuple):
    """Cross-entropies in nats, summed, and over how many."""

    intent: Tensor  # []
    intents: int
    slot: Tensor  # []
    words: int


@final
class Reader(nn.Module):
    """One member: words and letters, those of turns before among them -> bidirectional LSTMs -> intent and tags."""

    def __init__(self, facts: MessageFacts, sizes: Sizes, rates: Rates) -> None:
        super().__init__()
        self.rates = rates
        width, hidden = sizes.width, sizes.hidden
        self.words = nn.Embedding(1 + len(facts.words), width)
        self.letters = nn.EmbeddingBag(max(1, len(facts.letters)), width, mode="mean")
        for table in (self.words, self.letters):
            nn.init.normal_(table.weight, std=0.5)
        cell = Cell(weight_drop=rates.recurrent, forget_bias=1.0)
        self.lstm = LSTMStack(width, [hidden] * sizes.layers, cell, bidirectional=True, dropout=rates.features)
        self.attention = nn.Linear(2 * hidden, 1)
        self.intent = nn.Linear(4 * hidden, max(1, facts.classes))
        self.tag = nn.Linear(2 * hidden, len(facts.tag_numbers))
        self.roles = nn.Embedding(1 + len(ROLES), width) if facts.context else None

    def forward(self, batch: Messages) -> tuple[Tensor, Tensor]:
        """Logits of intents [batch, classes] and of tags [time, batch, tags]."""
        spelled = self.words(batch.numbers) + self.letters(batch.letters, batch.letter_begins)
        x = functional.embedding(batch.words, spelled)  # [time, batch, width]
        if self.roles is not None:
            x = x + self.roles(batch.roles)
        if self.training and self.rates.words:
            x = x * (torch.rand_like(x[..., :1]) >= self.rates.words)
        y, _ = self.lstm(x, lengths=batch.lengths)
        y = functional.dropout(y, self.rates.features, self.training)  # [time, batch, 2 * hidden]
        outside = (torch.arange(len(y)).unsqueeze(1) >= batch.lengths).unsqueeze(-1)  # [time, batch, 1]
        others = outside | (batch.roles != OWN).unsqueeze(-1)
        weights = self.attention(y).masked_fill(outside, -torch.inf).softmax(dim=0)
        pooled = torch.cat([y.masked_fill(others, -torch.inf).amax(dim=0), (weights * y).sum(dim=0)], dim=-1)
        return self.intent(pooled), self.tag(y)


@final
class MessageNetwork(nn.Module):
    """Messages -> intents and slots.

    Args:
        facts: sizes of the vocabulary and what there is to choose from.
        sizes: of the layers.
        rates: of dropout and smoothing.
    """

    def __init__(self, facts: MessageFacts, sizes: Sizes, rates: Rates) -> None:
        super().__init__()
        self.sizes, self.rates = sizes, rates
        grams = len(facts.phrases) + len(facts.letters) + len(facts.heard)
        self.wide = nn.EmbeddingBag(max(1, grams), max(1, facts.classes), mode="sum")
        nn.init.zeros_(self.wide.weight)
        self.readers = nn.ModuleList([Reader(facts, sizes, rates) for _ in range(sizes.members)])

    def forward(self, batch: Messages) -> Answers:
        """Logits of every voice; see together() for what they say in common."""
        weights = functional.dropout(batch.weights * WIDE_SCALE, self.rates.grams, self.training)
        wide: Tensor = self.wide(batch.grams, batch.gram_begins, weights)  # [batch, classes]
        read = [reader(batch) for reader in self.readers]
        return Answers(torch.stack([wide, *(intent for intent, _ in read)]), torch.stack([tag for _, tag in read]))

    def loss(self, answers: Answers, batch: Messages) -> MessageLoss:
        """In training the voices' mean loss, labels smoothed; in evaluation the loss of what they say together.

        Each voice learns by itself: the sum of their logits, learned as one, soon explains what it has seen, and then
        no voice learns any more. Readers learn from mixed messages if wanted; n-grams would only learn less by that.
        """
        if not self.training:
            intents, tags = together(answers)
            answers = Answers(intents.unsqueeze(0), tags.unsqueeze(0))
        return MessageLoss(
            self.intent_loss(answers.intents, batch.intents),
            int((batch.intents != IGNORED).sum()),
            mean_entropy(answers.tags, batch.tags),
            int((batch.tags != IGNORED).sum()),
        )

    def intent_loss(self, logits: Tensor, intents: Tensor) -> Tensor:
        """Of all voices, [voices, batch, classes]."""
        if not self.training:
            return mean_entropy(logits, intents)
        smoothing, mixup = self.rates.smoothing, self.rates.mixup
        if not mixup:
            return mean_entropy(logits, intents, smoothing)
        wide, readers = logits[:1], logits[1:]
        read = mixed_entropy(readers, intents, smoothing, mixup)
        return (mean_entropy(wide, intents, smoothing) + len(readers) * read) / len(logits)


def together(answers: Answers) -> tuple[Tensor, Tensor]:
    """What all voices say: logits of intents [batch, classes] and of tags [time, batch, tags].

    Half of the intent is the wide part's, half the readers', whose number only makes them more certain.
    """
    return (answers.intents[0] + answers.intents[1:].mean(dim=0)) / 2, answers.tags.mean(dim=0)


def mean_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over targets [...] that are not IGNORED, mean over voices; logits [voices, ..., classes]."""
    return entropies(logits, targets, smoothing).sum() / len(logits)


def mixed_entropy(logits: Tensor, targets: Tensor, smoothing: float, mixup: float) -> Tensor:
    """`mean_entropy` of messages mixed in pairs: a row is to say both intents, by shares of Beta(mixup, mixup).

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, of what was read, as Guo, Mao & Zhang,
    "Augmenting Data with Mixup for Sentence Classification", 2019: every voice ends in a linear layer, so that logits
    mixed are the logits of features mixed. logits [voices, batch, classes], targets [batch].
    """
    labelled = (targets != IGNORED).nonzero()[:, 0]
    logits, targets = logits[:, labelled], targets[labelled]
    partners = torch.randperm(len(targets))
    shares = torch.distributions.Beta(mixup, mixup).sample((len(targets),))
    mixed = logits * shares.unsqueeze(1) + logits[:, partners] * (1 - shares).unsqueeze(1)
    own, other = (entropies(mixed, wanted, smoothing) for wanted in (targets, targets[partners]))
    return (shares * own + (1 - shares) * other).sum() / len(logits)


def entropies(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropies [voices, ...], 0 where a target [...] is IGNORED; logits [voices, ..., classes]."""
    repeated = targets.expand(logits.shape[:-1])
    return functional.cross_entropy(
        logits.flatten(0, -2),
        repeated.flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction="none",
    ).view_as(repeated)

"""A network that reads a conversation and writes the next reply.

Every text, a message or the facts that a reply is to tell, is read once by a bidirectional LSTM. A second LSTM goes
from turn to turn and remembers the conversation (Serban et al., "Building End-To-End Dialogue Systems Using Generative
Hierarchical Neural Network Models", AAAI 2016), so that another turn costs the same whatever came before. A third one
writes, with attention over the facts and the last messages (Luong, Pham & Manning, EMNLP 2015), and copies from them
(`pointer`). One set of embeddings reads and tells the next token.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.engine import Cell, LSTMStack, State
from holdfast.engine.decoder import DecoderStep
from holdfast.engine.stream import Precision

from ..softmax import Reduction, linear_cross_entropy
from .attention import Source, attend
from .exchanges import IGNORED, Exchanges
from .pointer import PointerStep, mixed_surprise, pointed
from .translation_network import Dropout, blind_stack, embedded

KINDS = 3  # of texts


class Sizes(NamedTuple):
    """How large the parts are."""

    width: int  # of the embeddings, and so of a
    hidden: int  # memory cells that write, and of the conversation; half as many of each direction that reads
    window: int  # messages that a reply looks at


class Texts(NamedTuple):
    """Texts that were read."""

    values: Tensor  # [time, texts, read]
    ends: Tensor  # [texts, read]: of both directions


class Begun(NamedTuple):
    """Replies that are about to be written."""

    source: Source  # what is looked at
    tokens: Tensor  # [replies, seen] int64: what stands there
    h: Tensor  # [replies, hidden]
    c: Tensor


@final
class ReplyNetwork(nn.Module):
    """Conversations -> a, from which the next token of a reply is told.

    Args:
        vocabulary: tokens.
        sizes: of the layers.
        dropout: in training.
    """

    def __init__(self, vocabulary: int, sizes: Sizes, dropout: Dropout) -> None:
        super().__init__()
        self.sizes, self.rates = sizes, dropout
        width, hidden = sizes.width, sizes.hidden
        half, cell = max(1, hidden // 2), Cell(weight_drop=dropout.recurrent, forget_bias=1.0)
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # for the output; what is read has variance one
        self.scale = width**0.5
        self.kinds = nn.Embedding(KINDS, width)
        self.reader = LSTMStack(width, [half], cell, bidirectional=True, dropout=dropout.features)
        self.conversation = LSTMStack(2 * half, [hidden], cell, dropout=dropout.features)
        self.keys = nn.Linear(2 * half, hidden, bias=False)
        self.ages = nn.Embedding(sizes.window + 1, hidden)
        self.bridge = nn.Linear(4 * half + hidden, 2 * hidden)
        self.writer = LSTMStack(width, [hidden], cell, dropout=dropout.features)
        self.combine = nn.Linear(2 * half + hidden, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.gate = nn.Linear(width, 1)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and name != "embedding.weight":
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)  # why: see TranslationNetwork

    def read(self, tokens: Tensor, lengths: Tensor, kinds: Tensor) -> Texts:
        """Texts [time, texts] of these lengths, at least 1, and kinds [texts]."""
        x = self.embedded(tokens) + self.kinds(kinds)
        memory, states = self.reader(x, lengths=lengths)
        ends = torch.cat([states[-2].h, states[-1].h], dim=-1)
        return Texts(memory, ends)

    def embedded(self, tokens: Tensor) -> Tensor:
        return embedded(self.embedding.weight, tokens, self.scale, self.rates.words if self.training else 0.0)

    def keyed(self, values: Tensor) -> Tensor:
        """[..., read] -> [..., hidden]: what s is compared with, but for the age."""
        return self.keys(values) * self.sizes.hidden**-0.5

    def aged(self, ages: Tensor) -> Tensor:
        """What is added to the keys of texts of these ages."""
        return self.ages(ages) * self.sizes.hidden**-0.5

    def begin(self, message: Tensor, facts: Tensor, remembered: Tensor) -> tuple[Tensor, Tensor]:
        """h and c [replies, hidden] of the writer, from the ends of the message and of the facts, [replies, read], and
        the conversation's h [replies, hidden]."""
        h, c = self.bridge(torch.cat([message, facts, remembered], dim=-1)).tanh().chunk(2, dim=-1)
        return h.contiguous(), c.contiguous()

    def begun(self, batch: Exchanges) -> Begun:
        """Every reply of a batch, before its first token."""
        texts = self.read(batch.tokens, batch.lengths, batch.kinds)
        remembered, _ = self.conversation(
            texts.ends[batch.order], lengths=batch.turns
        )  # [turns, conversations, hidden]
        turn, conversation = batch.at.unbind(1)
        h, c = self.begin(texts.ends[batch.message], texts.ends[batch.facts], remembered[turn, conversation])
        values = functional.embedding(batch.said, texts.values.flatten(0, 1))  # [said, read]
        keys = functional.embedding(batch.places, self.keyed(values)) + self.aged(batch.ages)
        tokens = batch.tokens.flatten()[batch.said][batch.places]
        return Begun(Source(keys, functional.embedding(batch.places, values), batch.outside), tokens, h, c)

    def forward(self, batch: Exchanges) -> Tensor:
        """-log P of every token of every reply, [tokens], step by step."""
        begun = self.begun(batch)
        s, _ = self.writer(self.embedded(batch.before), [State(begun.h, begun.c)], lengths=batch.steps)
        context, alpha = attend(s.transpose(0, 1), begun.source)
        copied = pointed(alpha, begun.tokens, batch.targets.T).T
        live = batch.targets != IGNORED  # what follows is for real tokens alone
        a = self.combine(torch.cat([context.transpose(0, 1)[live], s[live]], dim=-1)).tanh()
        a = functional.dropout(a, self.rates.features, self.training)
        written = linear_cross_entropy(
            a, self.embedding.weight, self.bias, batch.targets[live], reduction=Reduction.NONE
        )
        return mixed_surprise(written, self.gate(a).squeeze(-1), copied[live])

    def step(
        self, slots: int, precision: Precision = "highest", edges: tuple[Tensor, Tensor] | None = None
    ) -> PointerStep:
        """The writer, one step of some replies at a time, with the weights as they are now; edges as PointerStep's."""
        with torch.device("meta"):  # no memory and no dice: the weights are put in
            output = nn.Linear(self.sizes.width, len(self.bias))
        output.weight, output.bias = self.embedding.weight, self.bias
        read = self.embedding.weight.detach() * self.scale
        lstm = blind_stack(self.writer, self.sizes.width, [self.sizes.hidden])
        step = DecoderStep(lstm, read, self.combine, output, slots=slots, precision=precision)
        return PointerStep(step, self.gate, edges)

"""A network that reads a sentence in one language and writes it in another.

Bidirectional LSTM encoder, LSTM decoder with general attention and input feeding (Bahdanau, Cho & Bengio, ICLR 2015;
Luong, Pham & Manning, EMNLP 2015). One set of embeddings reads the source, reads the target and tells the next token
(Press & Wolf, EACL 2017). Decoding is `holdfast.engine.decoder.DecoderStep`'s.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.engine import Cell, LSTMLayer, LSTMStack, State
from holdfast.engine.decoder import DecoderStep
from holdfast.engine.stream import Precision

from ..softmax import Reduction, linear_cross_entropy
from .attention import Source, attend, outside_of
from .input_feeding import Combine, Masks, feed_input

IGNORED: Final = -100  # the target past a row's end


class Sizes(NamedTuple):
    """How large the parts are."""

    width: int  # of the embeddings, and so of a
    hidden: int  # memory cells of each decoder layer; half as many of each of the encoder's directions
    encoder_layers: int
    decoder_layers: int


class Dropout(NamedTuple):
    """Shares left out while training."""

    words: float = 0.0  # whole words of the vocabulary, wherever they stand on one side of the batch
    features: float = 0.0  # of every layer's input for a whole row, and of a at each step
    recurrent: float = 0.0  # elements of R


class Encoded(NamedTuple):
    """A batch of sentences that were read."""

    source: Source
    h: Tensor  # [decoder layers, batch, hidden], before the first word is written
    c: Tensor


@final
class TranslationNetwork(nn.Module):
    """Source tokens and the target's tokens so far -> a, from which the next token is told.

    Args:
        vocabulary: tokens of both languages together.
        sizes: of the layers.
        dropout: in training.
        input_feeding: a goes into the decoder's next step. Without it all steps of a known translation are computed at
            once, which trains faster; decoding takes as long.
        smoothing: share of the target's probability that is spread over the vocabulary while training.
    """

    def __init__(
        self, vocabulary: int, sizes: Sizes, dropout: Dropout, input_feeding: bool = True, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.sizes, self.rates, self.input_feeding, self.smoothing = sizes, dropout, input_feeding, smoothing
        width, hidden = sizes.width, sizes.hidden
        half, cell = max(1, hidden // 2), Cell(weight_drop=dropout.recurrent, forget_bias=1.0)
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)  # for the output; what is read has variance one
        self.scale = width**0.5
        self.encoder = LSTMStack(
            width, [half] * sizes.encoder_layers, cell, bidirectional=True, dropout=dropout.features
        )
        self.keys = nn.Linear(2 * half, hidden, bias=False)
        self.bridge = nn.Linear(2 * half, 2 * sizes.decoder_layers * hidden)
        inputs = 2 * width if input_feeding else width
        self.decoder = LSTMStack(inputs, [hidden] * sizes.decoder_layers, cell, dropout=dropout.features)
        self.combine = nn.Linear(2 * half + hidden, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and name != "embedding.weight":
                # Sums of variance one (LeCun et al., "Efficient BackProp", 1998). The usual weights of an LSTM give a
                # third of that, and keys and s so small that attention looks everywhere alike for hundreds of steps.
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def embedded(self, tokens: Tensor) -> Tensor:
        """[time, batch] -> [time, batch, width]; in training some words are zero (Gal & Ghahramani 2016, 4.2)."""
        return embedded(self.embedding.weight, tokens, self.scale, self.rates.words if self.training else 0.0)

    def encode(self, tokens: Tensor, lengths: Tensor) -> Encoded:
        """Read source tokens [time, batch] of these lengths, at least 1."""
        memory, states = self.encoder(self.embedded(tokens), lengths=lengths)
        values = memory.transpose(0, 1).contiguous()  # [batch, time, 2 * half]
        ends = torch.cat([states[-2].h, states[-1].h], dim=-1)  # of both directions of the last layer
        first = self.bridge(ends).tanh().unflatten(1, (2, self.sizes.decoder_layers, self.sizes.hidden))
        # A step of Adam moves every weight alike, and a score by a sum over all of them: without a scale (Vaswani et
        # al., 2017, 3.2.1) a few steps make attention all or nothing, from where no gradient leads back.
        keys = self.keys(values) * self.sizes.hidden**-0.5
        source = Source(keys, values, outside_of(lengths, len(tokens)))
        h, c = first.permute(1, 2, 0, 3).contiguous()  # [2, decoder layers, batch, hidden]
        return Encoded(source, h, c)

    def forward(self, encoded: Encoded, tokens: Tensor) -> Tensor:
        """a of every step [time, batch, width], the tokens [time, batch] being those before each step."""
        embedded = self.embedded(tokens)
        states = [State(h, c) for h, c in zip(encoded.h, encoded.c, strict=True)]
        if self.input_feeding:
            embedded = self.decoder.drop(embedded)
            layers = [layer.weights() for layer in self.decoder.layers if isinstance(layer, LSTMLayer)]
            combine = Combine(self.combine.weight, self.combine.bias)
            return feed_input(embedded, layers, combine, encoded.source, states, self.masks(embedded))
        s, _ = self.decoder(embedded, states)
        context, _ = attend(s.transpose(0, 1), encoded.source)
        a = self.combine(torch.cat([context.transpose(0, 1), s], dim=-1)).tanh()
        return functional.dropout(a, self.rates.features, self.training)

    def masks(self, embedded: Tensor) -> Masks:
        """Dropout's dice for one batch."""
        if not (self.training and self.rates.features):
            return Masks(None, None)
        _, batch, _ = embedded.shape
        between = embedded.new_ones(self.sizes.decoder_layers - 1, batch, self.sizes.hidden)
        drawn = (functional.dropout(ones, self.rates.features) for ones in (between, torch.ones_like(embedded)))
        return Masks(*drawn)

    def loss(self, a: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, summed: a [time, batch, width], targets [time, batch], IGNORED past a row's end.

        Labels are smoothed in training only: what validation compares is the likelihood itself.
        """
        return linear_cross_entropy(
            a.flatten(0, 1),
            self.embedding.weight,
            self.bias,
            targets.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.smoothing if self.training else 0.0,
            reduction=Reduction.SUM,
        )

    def step(self, slots: int, precision: Precision = "highest") -> DecoderStep:
        """The decoder for writing, one step of some hypotheses at a time, with the weights as they are now."""
        with torch.device("meta"):  # no memory and no dice: the weights are put in
            output = nn.Linear(self.sizes.width, len(self.bias))
        output.weight, output.bias = self.embedding.weight, self.bias
        layers = [self.sizes.hidden] * self.sizes.decoder_layers
        lstm = self.decoder if self.input_feeding else blind_stack(self.decoder, self.sizes.width, layers)
        read = self.embedding.weight.detach() * self.scale
        return DecoderStep(lstm, read, self.combine, output, slots=slots, precision=precision)


def embedded(weight: Tensor, tokens: Tensor, scale: float, dropped: float) -> Tensor:
    """Rows of weight [vocabulary, width] times scale: [time, batch] -> [time, batch, width].

    A share of all words is zero, wherever they stand (Gal & Ghahramani 2016, 4.2).
    """
    x = functional.embedding(tokens, weight) * scale
    if not dropped:
        return x
    kept = functional.dropout(weight.new_ones(len(weight), 1), dropped)
    return x * functional.embedding(tokens, kept)


def blind_stack(decoder: LSTMStack, width: int, layers: Sequence[int]) -> LSTMStack:
    """The same layers for inputs with a beside the embedding, both of this width, at which they do not look."""
    with torch.device("meta"):
        wide = LSTMStack(2 * width, layers, Cell())
    pairs: Sequence[tuple[nn.Module, nn.Module]] = list(zip(wide.layers, decoder.layers, strict=True))
    for number, (new, old) in enumerate(pairs):
        for name, parameter in old.named_parameters():
            t = parameter.detach()
            if number == 0 and name == "weight_ih":
                t = torch.cat([t, t.new_zeros(len(t), width)], dim=1)
            setattr(new, name, nn.Parameter(t, requires_grad=False))
    return wide.eval()

"""How surprising a text is: the negative log probability of every token, knowing all before it.

The continuous cache is that of Grave, Joulin & Usunier, "Improving Neural Language Models with a Continuous Cache",
ICLR 2017: what followed states like the present one is likely to follow again. Dynamic evaluation is that of Krause et
al., "Dynamic Evaluation of Neural Sequence Models", ICML 2018, in its plain form: the network goes on learning from the
text that it has read.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.engine import State, Streams, library

from .language_network import LanguageNetwork, States

AT_ONCE = 512  # tokens shown to the network at once; the answer does not depend on it


@dataclass(frozen=True)
class Cache:
    """The last ``size`` states and the tokens that followed them; 0: none."""

    size: int = 0
    share: float = 0.1  # of the answer
    flatness: float = 0.3  # by which products of states are multiplied before the softmax

    def alone(self, h: Tensor, followed: Tensor, before: int) -> Tensor:
        """The probability that the cache gives what came, [tokens]; not a number where it holds nothing yet.

        h [before + tokens, width] and followed [before + tokens] are those of the cached tokens and then of the new
        ones; each new one sees the ``size`` before it. The share does not matter.
        """
        products = self.flatness * h[before:] @ h.T  # [tokens, before + tokens]
        here, there = torch.arange(before, len(h)).unsqueeze(1), torch.arange(len(h))
        seen = (there < here) & (there >= here - self.size)
        weights = products.masked_fill(~seen, float("-inf")).softmax(1)
        return (weights * (followed == followed[before:].unsqueeze(1))).sum(1)

    def mixed(self, log_p: Tensor, alone: Tensor) -> Tensor:
        """Log probabilities [tokens] of what came: the network's, and the cache's part put in."""
        return torch.where(alone.isnan(), log_p, ((1 - self.share) * log_p.exp() + self.share * alone).log())


class Ahead(NamedTuple):
    """What the network makes of the last token, before the next one is known."""

    h: Tensor  # [1, width]
    states: States
    log_p: Tensor  # [tokens]


class Reader:
    """Reads a text token by token, in pieces of any size: how surprised it was, and what it expects next.

    Args:
        start: the token that stands before a text.
        cache: none unless it has a size.
        rate: learning rate of dynamic evaluation, 0 for none. A copy of the network learns, after each AT_ONCE tokens.
    """

    def __init__(self, net: LanguageNetwork, start: int, cache: Cache | None = None, rate: float = 0.0) -> None:
        self.cache, self.rate = cache or Cache(), rate
        self.net = copy.deepcopy(net).eval() if rate else net
        self.trained = {name: p.detach().clone() for name, p in self.net.named_parameters()} if rate else {}
        self.start = start
        self.streams: Streams | None = None
        self.forget()

    def forget(self) -> None:
        """Another text begins."""
        self.last = self.start
        self.states: States | None = None
        self.h = torch.empty(0, self.net.embedding.embedding_dim)  # of the cached tokens
        self.followed = torch.empty(0, dtype=torch.int64)
        self.ahead: Ahead | None = None

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Surprise of each token in nats, [tokens]."""
        pieces = [self.piece(tokens[n : n + AT_ONCE]) for n in range(0, len(tokens), AT_ONCE)]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.float32)

    def piece(self, tokens: np.ndarray) -> np.ndarray:
        return -self.with_cache(self.log_probabilities(tokens), len(tokens)).numpy()

    def log_probabilities(self, tokens: np.ndarray) -> Tensor:
        """The network's own, [tokens]; the tokens are remembered."""
        targets = torch.tensor(tokens)
        inputs = torch.cat([torch.tensor([self.last]), targets[:-1]])
        with torch.inference_mode(False), torch.set_grad_enabled(self.rate > 0):
            h, states = self.net(inputs.unsqueeze(1), self.states)
            h = h.squeeze(1)  # [tokens, width]
            log_p = self.net.log_probabilities(h).gather(1, targets.unsqueeze(1)).squeeze(1)
            if self.rate:
                self.learn(log_p)
        self.remember(h.detach(), tuple(State(*(t.detach() for t in state)) for state in states), targets)
        return log_p.detach()

    @torch.inference_mode()
    def expect(self) -> Tensor:
        """Log probabilities of the next token, [tokens]."""
        if self.ahead is None:
            h, states = self.step()
            self.ahead = Ahead(h, states, self.net.log_probabilities(h).squeeze(0))
        if not (self.cache.size and len(self.h)):
            return self.ahead.log_p
        weights = (self.cache.flatness * self.h @ self.ahead.h.squeeze(0)).softmax(0)
        cached = torch.zeros_like(self.ahead.log_p).index_add_(0, self.followed, weights)
        return ((1 - self.cache.share) * self.ahead.log_p.exp() + self.cache.share * cached).log()

    def step(self) -> tuple[Tensor, States]:
        """h [1, width] of the last token and the states after it: the same bits as `read` has, sooner."""
        if not library.available():
            h, states = self.net(torch.tensor([[self.last]]), self.states)
            return h.squeeze(1), states
        if self.streams is None:
            self.streams = Streams(self.net.stack)  # packs the weights, once
        own = self.streams.states()
        assert isinstance(own, list)
        for layer, (h, c) in enumerate(own):
            h.copy_(0 * h if self.states is None else self.states[layer].h)
            c.copy_(0 * c if self.states is None else self.states[layer].c)
        h = self.streams.step(self.net.embedding.weight[self.last] * self.net.scale).unsqueeze(0).clone()
        return h, tuple(State(h.clone(), c.clone()) for h, c in own)

    def follow(self, token: int) -> None:
        """Go on with a token of one's choice."""
        self.expect()
        assert self.ahead is not None
        self.remember(self.ahead.h, self.ahead.states, torch.tensor([token]))
        self.forget_old()

    def remember(self, h: Tensor, states: States, tokens: Tensor) -> None:
        """The states after some tokens but the last, which is to be read next."""
        self.states, self.last, self.ahead = states, int(tokens[-1]), None
        if self.cache.size:
            self.h, self.followed = torch.cat([self.h, h]), torch.cat([self.followed, tokens])

    def with_cache(self, log_p: Tensor, fresh: int) -> Tensor:
        """Log probabilities of the tokens just remembered, the cache's part put in."""
        if not self.cache.size:
            return log_p
        mixed = self.cache.mixed(log_p, self.cache.alone(self.h, self.followed, len(self.h) - fresh))
        self.forget_old()
        return mixed

    def forget_old(self) -> None:
        self.h, self.followed = self.h[-self.cache.size :], self.followed[-self.cache.size :]

    def learn(self, log_p: Tensor) -> None:
        """One step towards what was read, and a little of the way back to what was trained."""
        parameters = dict(self.net.named_parameters())
        gradients = torch.autograd.grad(-log_p.mean(), list(parameters.values()))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        with torch.no_grad():
            for (name, p), g in zip(parameters.items(), gradients, strict=True):
                p.add_(g, alpha=-self.rate / max(1.0, float(norm)))
                p.lerp_(self.trained[name], 0.002)
        self.streams = None  # its weights are the old ones


def compare_caches(net: LanguageNetwork, start: int, tokens: np.ndarray, caches: Sequence[Cache]) -> np.ndarray:
    """Mean surprise in nats, [caches], of a text under each; the network reads it once."""
    reader = Reader(net, start, Cache(max(one.size for one in caches)))
    total = np.zeros(len(caches))
    for begin in range(0, len(tokens), AT_ONCE):
        piece = tokens[begin : begin + AT_ONCE]
        log_p = reader.log_probabilities(piece)
        before = len(reader.h) - len(piece)
        apart = {(one.size, one.flatness): one for one in caches}  # what differs in the share alone looks once
        alone = {kind: one.alone(reader.h, reader.followed, before) for kind, one in apart.items()}
        total -= [float(one.mixed(log_p, alone[one.size, one.flatness]).double().sum()) for one in caches]
        reader.forget_old()
    return total / max(1, len(tokens))

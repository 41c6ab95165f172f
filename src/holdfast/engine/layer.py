"""One layer, one direction, of any cell: the options that torch.nn.LSTM has not."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from .cells import State, Variant, Weights, Zoneout
from .functional import check_lengths, check_numbers, lstm, lstm_packed
from .gates import Gates, gates
from .reference import zero_state
from .resets import cut, states


@dataclass(frozen=True)
class Cell:
    """What a layer's cell is; the default is torch's. See cells.py for the equations and the papers."""

    peephole: bool = False
    coupled: bool = False  # i = 1 - f, three quarters of the weights
    normalised: bool = False  # layer normalisation of W x, of R h and of c
    exponential: bool = False  # exponential gating with normaliser and stabiliser (sLSTM)
    projection: int | None = None  # width of h; None: that of c
    bias: bool = True
    zoneout_h: float = 0.0  # probabilities, drawn in training and averaged in evaluation
    zoneout_c: float = 0.0
    dropout_h: float = 0.0  # of h as R sees it, the same units for a whole sequence
    weight_drop: float = 0.0  # of R's elements, anew for each call (Merity, Keskar & Socher, ICLR 2018)
    learnt_state: bool = False  # the state before the first step is learnt
    forget_bias: float = 0.0  # what the forget gate's bias begins with; 1 is Jozefowicz et al.'s advice (ICML 2015)
    memory_span: int | None = None  # chrono initialisation for dependencies up to so many steps: see start_chrono

    def __post_init__(self) -> None:
        if self.exponential and (self.peephole or self.coupled or self.zoneout_h or self.zoneout_c):
            raise ValueError("the exponential cell has no peepholes, no coupled gates and no zoneout")
        if self.normalised and (self.peephole or self.coupled or self.exponential or self.zoneout_h or self.zoneout_c):
            raise ValueError("layer normalisation goes with a projection and dropout, with no other variant")
        if self.projection is not None and self.zoneout_h:
            raise ValueError("zoneout of h does not go with a projection; zoneout_c does")
        for name in ("zoneout_h", "zoneout_c", "dropout_h", "weight_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability below 1, not {getattr(self, name)}")
        if self.projection is not None and (not isinstance(self.projection, int) or self.projection < 1):  # pyright: ignore
            raise ValueError(f"projection is a width, at least 1, not {self.projection}")
        if self.memory_span is not None and self.memory_span < 3:
            raise ValueError(f"memory_span counts steps, at least 3, not {self.memory_span}")
        if (self.memory_span is not None or self.forget_bias) and not self.bias:
            raise ValueError("memory_span and forget_bias set biases; there are none with bias=False")
        if self.memory_span is not None and self.forget_bias:
            raise ValueError("memory_span and forget_bias both set the forget gate's bias: give one of them")


PLAIN_CELL: Final = Cell()


@final
class LSTMLayer(nn.Module):
    """One recurrent layer in one direction.

    Args:
        input_size: features of x.
        hidden_size: units, the width of c.
        cell: its variant.

    Parameters: weight_ih [gates * hidden, input_size], weight_hh [gates * hidden, width of h] and bias
    [gates * hidden], gates in the order i f g o, of a coupled cell f g o; weight_hr [projection, hidden]; peephole
    [3 * hidden] (i f o); gain_x, gain_h [4 * hidden], gain_c, bias_c [hidden]; h0 [width of h], c0 [hidden].
    """

    def __init__(self, input_size: int, hidden_size: int, cell: Cell = PLAIN_CELL) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size must be at least 1, not {input_size} and {hidden_size}")
        self.input_size, self.hidden_size, self.cell = input_size, hidden_size, cell
        self.width = cell.projection or hidden_size  # of h
        rows = (3 if cell.coupled else 4) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, self.width))

        def optional(wanted: bool, *shape: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(shape)) if wanted else None

        self.bias = optional(cell.bias, rows)
        self.weight_hr = optional(cell.projection is not None, self.width, hidden_size)
        self.peephole = optional(cell.peephole, 3 * hidden_size)
        self.gain_x = optional(cell.normalised, rows)
        self.gain_h = optional(cell.normalised, rows)
        self.gain_c = optional(cell.normalised, hidden_size)
        self.bias_c = optional(cell.normalised, hidden_size)
        self.h0 = optional(cell.learnt_state, self.width)
        self.c0 = optional(cell.learnt_state, hidden_size)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """torch.nn.LSTM's uniform weights; gains one, learnt states zero; the forget gate's bias as the cell says."""
        for parameter in self.parameters():
            parameter.uniform_(-1, 1).mul_(self.hidden_size**-0.5)
        for gain in (self.gain_x, self.gain_h, self.gain_c):
            if gain is not None:
                gain.fill_(1)
        for zero in (self.bias_c, self.h0, self.c0):
            if zero is not None:
                zero.zero_()
        if self.bias is not None and self.cell.forget_bias:
            self.forget_rows(self.bias).fill_(self.cell.forget_bias)
        if self.bias is not None and self.cell.memory_span is not None:
            self.start_chrono(self.bias, self.cell.memory_span)

    def forget_rows(self, bias: Tensor) -> Tensor:
        first = 0 if self.cell.coupled else self.hidden_size
        return bias[first : first + self.hidden_size]

    def start_chrono(self, bias: Tensor, span: int) -> None:
        """Forget gates that keep for 1 to span - 1 steps: bf = log u, u uniform there, and bi = -bf.

        Tallec & Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, section 2.3.
        """
        forget = self.forget_rows(bias)
        forget.uniform_(1, span - 1).log_()
        if not self.cell.coupled:
            bias[: self.hidden_size] = -forget

    def forward(
        self,
        x: Tensor,
        state: State | tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        reverse: bool = False,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Run a batch of sequences.

        Args:
            x: [time, batch, input_size].
            state: (h [batch, width of h], c [batch, hidden], of the exponential cell [3, batch, hidden]).
            lengths: [batch] int64 on the CPU; past a row's length x is never read and y is zero.
            reverse: run every row from its own last step to its first.
            resets: [time, batch] bool: the memory is cleared (to the learnt state, if any) before these steps.

        Returns:
            y [time, batch, width of h] and the state after each row's own last step. Of an exponential cell's state the
            gradient is exact for passing it on into another call; of a loss made of c, n or m themselves it is not,
            since their scale m counts as a constant.
        """
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  users do
            raise ValueError(
                f"x must be a tensor; of rows of unequal length, padded with lengths=, not a {type(x).__name__}"
            )
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x must be [time, batch, {self.input_size}], not {list(x.shape)}")
        weights, variant = self.weights(), self.variant(x)
        before = self.initial_state(x, weights, variant)
        if state is not None:
            before = checked_state(state, before)
        if resets is None:
            return lstm(x, weights, before, lengths=lengths, reverse=reverse, variant=variant)
        if reverse or resets.dtype != torch.bool or resets.shape != x.shape[:2] or not resets.is_cpu:
            raise ValueError(
                f"resets must be bool [time, batch] {list(x.shape[:2])} on the CPU and go with forward time only, "
                f"not {resets.dtype} {list(resets.shape)} on {resets.device} with reverse={reverse}"
            )
        if lengths is not None:
            check_lengths(lengths, x)
            check_numbers(lengths, x.shape[0])
        pieces = cut(resets, lengths)
        begin = states(pieces, before, self.initial_state(x, weights, variant))
        if variant.h_mask is not None:
            variant = variant._replace(h_mask=variant.h_mask[pieces.row])
        at = (pieces.time * x.shape[1] + pieces.place).to(x.device)  # of x's row-steps, laid out flat
        packed, last = lstm_packed(x.flatten(0, 1).index_select(0, at), weights, begin, pieces.lengths, variant)
        y = packed.new_zeros(x.shape[0] * x.shape[1], self.width).index_copy(0, at, packed)
        return y.unflatten(0, x.shape[:2]), State(
            last.h[pieces.last], last.c.index_select(-2, pieces.last.to(last.c.device))
        )

    def gates(
        self, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None, reverse: bool = False
    ) -> Gates:
        """The gates and cell states of every step, each [time, batch, hidden], as evaluation has them."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                weights, variant = self.weights(), self.variant(x)
                before = self.initial_state(x, weights, variant) if state is None else state
                return gates(x, weights, before, lengths=lengths, reverse=reverse, variant=variant)
        finally:
            self.train(training)

    def weights(self) -> Weights:
        """The parameters as the engine takes them: four gates, weight drop applied."""
        w, r, b = self.weight_ih, self.weight_hh, self.bias
        if self.cell.weight_drop and self.training:
            r = left_out(r, self.cell.weight_drop)
        if self.cell.coupled:  # rows of i that count for nothing
            w, r = (torch.cat([t.new_zeros(self.hidden_size, t.shape[1]), t]) for t in (w, r))
            b = None if b is None else torch.cat([b.new_zeros(self.hidden_size), b])
        return Weights(w, r, b, self.weight_hr, self.peephole, self.gain_x, self.gain_h, self.gain_c, self.bias_c)

    def variant(self, x: Tensor) -> Variant:
        """The options of this call, its random numbers drawn from torch's generator."""
        cell, mask, seed = self.cell, None, None
        if self.training and cell.dropout_h:
            mask = dropout(x.new_ones(x.shape[1], self.width), cell.dropout_h)
        if self.training and (cell.zoneout_h or cell.zoneout_c):
            seed = torch.randint(2**62, ())  # a tensor: for a compiler, and one for each sample under torch.vmap
        return Variant(cell.coupled, cell.exponential, mask, Zoneout(cell.zoneout_h, cell.zoneout_c, seed))

    def initial_state(self, x: Tensor, weights: Weights, variant: Variant) -> State:
        """Zeros, or what has been learnt, for every row."""
        zero = zero_state(x, weights, variant)
        if self.h0 is None or self.c0 is None:
            return zero
        h, c = self.h0.expand_as(zero.h), self.c0.expand(zero.h.shape[0], self.hidden_size)
        if variant.exponential:  # a memory that weighs as much as one input of strength zero
            c = torch.stack([c, torch.ones_like(c), torch.zeros_like(c)])
        return State(h, c)

    def extra_repr(self) -> str:
        options = [f"{name}={value}" for name, value in vars(self.cell).items() if value != getattr(PLAIN_CELL, name)]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *options])


def checked_state(state: State | tuple[Tensor, Tensor], like: State) -> State:
    """The state, its shapes compared with those of `like`."""
    for name, given, wanted in zip("hc", state, like, strict=True):
        if not isinstance(given, Tensor) or given.shape != wanted.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
            came = list(given.shape) if isinstance(given, Tensor) else given  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name} of the state came as {came}; expected a tensor {list(wanted.shape)}")
    return State(*state)


def left_out(weight: Tensor, share: float) -> Tensor:
    """The weight with this share of its elements zero and the others larger, so that sums stay as they are.

    As F.dropout has it, whose Bernoulli variables take five times as long on a CPU: of R a tenth of a training step.
    Here four elements share a number of 64 bits, and the share is rounded to 1 / 65536.
    """
    numbers = torch.randint(-(2**63), 2**63 - 1, ((weight.numel() + 3) // 4,), device=weight.device)
    dice = numbers.view(torch.int16)[: weight.numel()].view(weight.shape)
    kept = dice >= round(share * 65536) - 32768
    return weight * (kept * (1 / (1 - share)))

"""LSTM: torch.nn.LSTM, faster. Everything it takes and returns, and its state_dict, are torch's.

It is a subclass on purpose: code that asks ``isinstance(module, nn.LSTM)``, initialises or quantises by class, or
unpickles, must not be able to tell. Only the computation differs (docs/decisions/0002-drop-in-by-subclass.md).
"""

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import backend
from .bfloat16 import wide, wide_state
from .functional import run
from .reference import State, Weights


@final
class LSTM(nn.LSTM):
    """A drop-in for torch.nn.LSTM: the same constructor, arguments, results, errors, parameters and state_dict.

    See torch.nn.LSTM for the arguments. The result's state is a State, a named tuple (h, c). Where the native kernels
    cannot take a call (another device, float64 or float16) torch's own operator does, and holdfast.backend_report()
    says so.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  torch types it by overloads for TorchScript
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, State]:
        """Run the stack.

        Args:
            input: [time, batch, input_size]; [batch, time, input_size] with batch_first; [time, input_size] for one
                sequence; or a PackedSequence.
            hx: (h0, c0), each [layers * directions, batch, hidden_size or proj_size]; zeros where it is None.

        Returns:
            The output of the last layer in the form of the input, and the State after each row's last step.
        """
        choice = self.choose(input)
        if choice is None:
            if isinstance(input, PackedSequence):  # torch itself multiplies rows of a wrong width without a word
                self.check_input(input.data, input.batch_sizes)
            y, (h, c) = super().forward(input, hx)
            return y, State(h, c)
        if isinstance(input, PackedSequence):
            return self.forward_packed(input, hx, choice)
        if input.dim() == 3:
            return self.forward_batch(input, hx, choice)
        if input.dim() == 2:
            return self.forward_single(input, hx, choice)
        raise ValueError(f"LSTM: the input must be 2-D (one sequence) or 3-D (a batch), not {input.dim()}-D")

    def choose(self, input: Any) -> backend.Choice | None:
        """The backend that runs the stack layer by layer; None where torch's operator takes it in one piece."""
        x = input.data if isinstance(input, PackedSequence) else input
        if torch.jit.is_tracing() or not isinstance(x, Tensor):  # pyright: ignore[reportPrivateImportUsage]
            return None
        in_a_loop = self.proj_size > 0 or isinstance(input, PackedSequence)
        choice = backend.choose_for_stack(x, self.layer_parameters(0)[0], in_a_loop)
        in_one_piece = choice.backend == "torch"
        backend.count(choice, 1 if in_one_piece else len(self._all_weights))
        return None if in_one_piece else choice

    def forward_single(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, choice: backend.Choice
    ) -> tuple[Tensor, State]:
        """One sequence [time, input_size], without a batch axis."""
        axis = 0 if self.batch_first else 1
        if hx is not None:
            if hx[0].dim() != 2 or hx[1].dim() != 2:
                raise RuntimeError(
                    f"For unbatched 2-D input, hx should also be 2-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
                )
            hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        y, (h, c) = self.forward_batch(x.unsqueeze(axis), hx, choice)
        return y.squeeze(axis), State(h.squeeze(1), c.squeeze(1))

    def forward_batch(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, choice: backend.Choice
    ) -> tuple[Tensor, State]:
        """A batch of sequences of one length."""
        if hx is not None and (hx[0].dim() != 3 or hx[1].dim() != 3):
            raise RuntimeError(
                f"For batched 3-D input, hx should also be 3-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        if hx is not None:
            self.check_forward_args(x, hx, None)
        else:
            self.check_input(x, None)
        x = x.transpose(0, 1) if self.batch_first else x
        if x.shape[0] == 0:
            raise RuntimeError("LSTM: expected sequence length to be larger than 0")
        y, state = self.run_stack(x, hx, None, choice)
        return (y.transpose(0, 1) if self.batch_first else y), state

    def forward_packed(
        self, packed: PackedSequence, hx: tuple[Tensor, Tensor] | None, choice: backend.Choice
    ) -> tuple[PackedSequence, State]:
        """Ragged rows as torch packs them. The kernels take them so: nothing is padded on the way."""
        data, batch_sizes, order, back = packed
        if hx is not None:
            hx = self.permute_hidden(hx, order)
            self.check_forward_args(data, hx, batch_sizes)
        else:
            self.check_input(data, batch_sizes)
        ending = -batch_sizes.diff(append=batch_sizes.new_zeros(1))  # [time] how many rows end with each step
        lengths = torch.arange(1, len(batch_sizes) + 1).repeat_interleave(ending).flip(0)  # [batch], longest first
        y, state = self.run_stack(data, hx, lengths, choice)
        return PackedSequence(y, batch_sizes, order, back), State(*self.permute_hidden(state, back))

    def run_stack(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, lengths: Tensor | None, choice: backend.Choice
    ) -> tuple[Tensor, State]:
        """All layers and directions, dropout between the layers. x [time, batch, features], or packed with lengths."""
        if choice.bfloat16:
            dtypes = self.torchs_dtypes(x, hx, lengths is not None)
            y, (h, c) = self.run_layers(wide(x), wide_state(hx), lengths, choice)
            return y.to(dtypes[0]), State(h.to(dtypes[0]), c.to(dtypes[1]))
        return self.run_layers(x, hx, lengths, choice)

    def torchs_dtypes(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, packed: bool
    ) -> tuple[torch.dtype, torch.dtype]:
        """Of y and h, and of c, as torch.nn.LSTM has them.

        Its loop for packed rows and projections leaves c as wide as it came, and h too where nothing projects it.
        """
        memory = torch.promote_types(torch.bfloat16, (x if hx is None else hx[1]).dtype)
        if not packed and not self.proj_size:
            return torch.bfloat16, torch.bfloat16
        return torch.bfloat16 if self.proj_size else memory, memory

    def run_layers(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, lengths: Tensor | None, choice: backend.Choice
    ) -> tuple[Tensor, State]:
        """`run_stack` in one dtype."""
        directions = 2 if self.bidirectional else 1
        states: list[State] = []
        for layer in range(self.num_layers):
            outputs: list[Tensor] = []
            for direction in range(directions):
                place = layer * directions + direction
                before = None if hx is None else State(hx[0][place], hx[1][place])
                y, after = run(choice, x, self.weights(place, choice.bfloat16), before, lengths, direction == 1)
                outputs.append(y)
                states.append(after)
            x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
            if self.dropout > 0 and self.training and layer < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout, training=True)
        if len(states) == 1:
            return x, State(states[0].h.unsqueeze(0), states[0].c.unsqueeze(0))
        return x, State(torch.stack([s.h for s in states]), torch.stack([s.c for s in states]))

    def layer_parameters(self, place: int) -> list[Tensor]:
        """The parameters of one layer and direction: weight_ih, weight_hh, then bias_ih, bias_hh, weight_hr if any."""
        own = self._parameters  # asked directly where that will do: an attribute of a module takes half a microsecond
        return [own[name] if name in own else getattr(self, name) for name in self._all_weights[place]]  # pyright: ignore

    def weights(self, place: int, bfloat16: bool = False) -> Weights:
        """The weights of one layer and direction, torch's two biases summed; in float32 where that is to be rounded."""
        parameters = self.layer_parameters(place)
        w, r, *rest = map(wide, parameters) if bfloat16 else parameters
        bias = rest.pop(0) + rest.pop(0) if self.bias else None
        return Weights(w, r, bias, rest[0] if rest else None)

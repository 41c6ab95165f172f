"""bfloat16 at the door: a module of that dtype, or autocast, runs the kernels on tensors widened to float32.

The kernels round the factors of products, as in medium precision, and nothing else. So a conversion belongs where a
call begins and where it ends: what goes from layer to layer, the state and the sums stay in float32. The conversions
are torch's own, whose gradients come back in the dtype of what was converted.
"""

from typing import overload

import torch
from torch import Tensor

from .cells import State, Weights


@overload
def wide(t: Tensor) -> Tensor: ...
@overload
def wide(t: Tensor | None) -> Tensor | None: ...
def wide(t: Tensor | None) -> Tensor | None:
    """The tensor in float32, where it came in bfloat16."""
    return t.float() if t is not None and t.dtype == torch.bfloat16 else t


def wide_weights(weights: Weights) -> Weights:
    return Weights(*map(wide, weights))  # pyright: ignore[reportArgumentType]  R is there


def wide_state(state: State | tuple[Tensor, Tensor] | None) -> State | None:
    return None if state is None else State(wide(state[0]), wide(state[1]))

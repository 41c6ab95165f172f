"""A kernel that writes down what pointwise.keeps draws, for triton_cases.py."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from holdfast.engine.cells import Zoneout
from holdfast.engine.cuda.layer import draw_of
from holdfast.engine.cuda.pointwise import keeps


@triton.jit
def draw(
    out: Any, number: Any, start: Any, high: Any, keep_h: Any, keep_c: Any, count: Any, block: tl.constexpr
) -> None:
    place = tl.arange(0, block)
    of_h, of_c = keeps(place.to(tl.int64), number, start, high, keep_h, keep_c, True)
    tl.store(out + place, of_h, mask=place < count)
    tl.store(out + count + place, of_c, mask=place < count)


def masks(zoneout: Zoneout, step: int, shape: tuple[int, int]) -> Tensor:
    """Of h and of c, [2, batch, hidden]."""
    found = torch.empty(2, *shape)
    draw[(1,)](found, step, *draw_of(zoneout), shape[0] * shape[1], block=256)
    return found

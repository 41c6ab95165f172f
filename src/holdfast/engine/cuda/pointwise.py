# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
"""One step of a cell in Triton, forwards and backwards: everything between the products R h' and the new h.

A program has `block` units of the batch, which stand row by row. What differs from cell to cell is decided when a
kernel is compiled; sizes and step numbers are ordinary integers on which nothing is specialised, so that a new length
or batch never compiles anything. Offsets are 64 bits wide. Arithmetic is float32, whatever the tensors hold.

Arguments that all kernels share, with the letters of cells.py:

    gates      float32 [time, batch, 4 * hidden]: W x + b comes, the gates i, f, g, o as they act are left there where
               `keep`; the exponential cell leaves i as it weighs, f before its activation, g, o
    recurrent  [batch, 4 * hidden], R h' of this step
    h, c       the state before the first step and, where `keep`, after each, in the order in which the steps run:
               [steps + 1, batch, hidden]; else one of each, which a step replaces. c is float32, and of the
               exponential cell [steps + 1, 3, batch, hidden]: c, n, m
    seen       [batch, hidden], what R sees next: h * mask
    y          [time, batch, hidden]. Of a cell that projects it is what the projection sees, and h and mask are None:
               layer.py does the rest
    lengths    int64 [batch]
    t, s       the step's place in time, and how many steps have run before it
    start, high, keep_h, keep_c    zoneout: see `keeps`

A tensor that a cell has not is None, which a compiled kernel knows.
"""

import triton
import triton.language as tl

BLOCK = 256  # units per program, two for each thread of its four warps
NUMBERS = ["batch", "t", "s", "start", "high"]  # hidden is a layer's own, and whether 16 divides it may be known


@triton.jit
def sigmoid(x):
    """Within 2e-7 for every x: the exponential's argument is never positive, so that nothing overflows."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def tanh(x):
    """Within 2e-7 for every x, relative to it where it is small.

    (1 - e) / (1 + e) with e = exp(-2x) alone is NaN from x = -44.4 on, and loses digits near zero; there the series of
    tanh up to x^9, whose rest is 5e-8 of it at 0.3.
    """
    size = tl.abs(x)
    e = tl.exp(-2.0 * size)
    large = (1.0 - e) / (1.0 + e)
    v = tl.minimum(size, 1.0) * tl.minimum(size, 1.0)
    small = size * (1.0 + v * (-1.0 / 3 + v * (2.0 / 15 + v * (-17.0 / 315 + v * (62.0 / 2835)))))
    t = tl.where(size < 0.3, small, large)
    return tl.where(x < 0, -t, t)


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def mixed(v):
    """cells.mixed in words of 32 bits, which wrap by themselves."""
    v = tl.mul(v ^ (v >> 16), 0x21F0AAAD, sanitize_overflow=False)
    v = tl.mul(v ^ (v >> 15), 0xD35A2D97, sanitize_overflow=False)
    return v ^ (v >> 15)


@triton.jit
def keeps(place, number, start, high, keep_h, keep_c, drawn: tl.constexpr):
    """How much of h and c of the step before each unit keeps: cells.zoneout_masks.

    Drawn: `start` and `high` are the seed's two words, the lower one mixed, as signed integers, `number` counts the
    row's own steps, and a unit keeps where 24 bits are less than `keep_h`, `keep_c`. Else these are what is kept.
    """
    if drawn:
        first = mixed(number.to(tl.uint32) ^ start.to(tl.uint32))
        second = mixed(tl.add(first, high.to(tl.uint32), sanitize_overflow=False))
        word = mixed(tl.add(mixed(place.to(tl.uint32) ^ first), second, sanitize_overflow=False))
        other = mixed(tl.add(word, second, sanitize_overflow=False))
        of_h = ((word >> 8).to(tl.float32) < keep_h).to(tl.float32)
        of_c = ((other >> 8).to(tl.float32) < keep_c).to(tl.float32)
    else:
        of_h, of_c = keep_h, keep_c
    return of_h, of_c


@triton.jit
def own_units(batch, hidden, block: tl.constexpr):
    """This program's units: where they stand in the batch, which there are, of which rows, which of the row's.

    A batch has less than 2^31 units (function.check), for a division of 64 bits would take longer than the cell.
    """
    place = tl.program_id(0) * block + tl.arange(0, block)
    row = place // hidden
    return place.to(tl.int64), place < batch * hidden, row, place - row * hidden


@triton.jit
def own_number(row, lengths, t, s, there, reverse: tl.constexpr):
    """How many of the row's own steps have run before: in reverse a shorter row begins later."""
    number = tl.load(lengths + row, mask=there, other=0) - 1 - t if lengths is not None and reverse else s
    return number


@triton.jit
def four(at, hidden, there):
    """Four values of each unit, i, f, g, o, that stand `hidden` apart."""
    i = tl.load(at, mask=there, other=0.0).to(tl.float32)
    f = tl.load(at + hidden, mask=there, other=0.0).to(tl.float32)
    g = tl.load(at + 2 * hidden, mask=there, other=0.0).to(tl.float32)
    o = tl.load(at + 3 * hidden, mask=there, other=0.0).to(tl.float32)
    return i, f, g, o


@triton.jit
def store_four(at, hidden, there, i, f, g, o):
    tl.store(at, i, mask=there)
    tl.store(at + hidden, f, mask=there)
    tl.store(at + 2 * hidden, g, mask=there)
    tl.store(at + 3 * hidden, o, mask=there)


@triton.jit
def still_runs(row, lengths, t, there):
    """Whether the row has a step at this time. Of whole rows it is known to be so."""
    runs = tl.load(lengths + row, mask=there, other=0) > t if lengths is not None else t >= 0
    return runs


@triton.jit
def borders(place, layer, s, keep: tl.constexpr):
    """Where the state before this step stands, and the one after it; `layer` elements make one state."""
    if keep:
        before = s.to(tl.int64) * layer + place
        after = before + layer
    else:
        before = place
        after = place
    return before, after


@triton.jit
def old_h(h, before, there):
    """h before the step; of a cell that projects it is not the kernel's business."""
    old = tl.load(h + before, mask=there, other=0.0).to(tl.float32) if h is not None else 0.0
    return old


@triton.jit
def store_h(h, after, y_at, seen, mask, place, there, runs, old, new):
    """What the row shows at this step, its new h, and what R sees at the next. A row that is over keeps its own h."""
    tl.store(y_at, tl.where(runs, new, 0.0), mask=there)
    if h is not None:
        new = tl.where(runs, new, old)
        tl.store(h + after, new, mask=there)
        if mask is not None:
            tl.store(seen + place, new * tl.load(mask + place, mask=there, other=0.0).to(tl.float32), mask=there)


@triton.jit
def incoming(dh_at, product_at, mask, dy, place, now, there, runs):
    """The gradient of h after this step: what came past R, through R, and, while the row runs, from y."""
    through = tl.load(product_at, mask=there, other=0.0).to(tl.float32)
    if mask is not None:
        through *= tl.load(mask + place, mask=there, other=0.0).to(tl.float32)
    total = tl.load(dh_at, mask=there, other=0.0) + through
    if dy is not None:
        total += tl.where(runs, tl.load(dy + now, mask=there, other=0.0).to(tl.float32), 0.0)
    return total


@triton.jit
def store_running(at, hidden, there, runs, di, df, dg, do):
    """The four gradients of a row's sums, zero where the row has no step."""
    zero = tl.zeros_like(di)
    di, df = tl.where(runs, di, zero), tl.where(runs, df, zero)
    dg, do = tl.where(runs, dg, zero), tl.where(runs, do, zero)
    store_four(at, hidden, there, di, df, dg, do)

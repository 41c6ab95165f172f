# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
"""The cell with a sigmoid input gate in Triton, plain and with peepholes, coupled gates and zoneout.

See pointwise.py for the arguments.
"""

import triton
import triton.language as tl

from .pointwise import (
    NUMBERS,
    borders,
    four,
    incoming,
    keeps,
    old_h,
    own_number,
    own_units,
    sigmoid,
    still_runs,
    store_four,
    store_h,
    store_running,
    tanh,
)


@triton.jit
def add_peephole(at, hidden, there, di, df, do):
    tl.store(at, tl.load(at, mask=there, other=0.0) + di, mask=there)
    tl.store(at + hidden, tl.load(at + hidden, mask=there, other=0.0) + df, mask=there)
    tl.store(at + 2 * hidden, tl.load(at + 2 * hidden, mask=there, other=0.0) + do, mask=there)


@triton.jit(do_not_specialize=NUMBERS)
def sigmoid_forward(
    gates,
    recurrent,
    h,
    c,
    y,
    seen,
    peephole,
    mask,
    lengths,
    batch,
    hidden,
    t,
    s,
    start,
    high,
    keep_h,
    keep_c,
    coupled: tl.constexpr,
    zoneout: tl.constexpr,
    drawn: tl.constexpr,
    reverse: tl.constexpr,
    keep: tl.constexpr,
    block: tl.constexpr,
):
    """cells.sigmoid_cell and what follows it. peephole [3 * hidden], mask [batch, hidden]."""
    place, there, row, unit = own_units(batch, hidden, block)
    layer = batch.to(tl.int64) * hidden
    now = t.to(tl.int64) * layer + place
    before, after = borders(place, layer, s, keep)
    runs = still_runs(row, lengths, t, there)
    h_before = old_h(h, before, there)
    c_before = tl.load(c + before, mask=there, other=0.0)
    gates += now + 3 * (now - unit)  # four times as far, the unit excepted
    i, f, g, o = four(gates, hidden, there)
    ri, rf, rg, ro = four(recurrent + place + 3 * (place - unit), hidden, there)
    i, f, g, o = i + ri, f + rf, g + rg, o + ro
    if peephole is not None:
        i += tl.load(peephole + unit, mask=there, other=0.0).to(tl.float32) * c_before
        f += tl.load(peephole + hidden + unit, mask=there, other=0.0).to(tl.float32) * c_before
    f = sigmoid(f)
    i = 1.0 - f if coupled else sigmoid(i)
    g = tanh(g)
    cell = f * c_before + i * g
    if peephole is not None:
        o += tl.load(peephole + 2 * hidden + unit, mask=there, other=0.0).to(tl.float32) * cell
    o = sigmoid(o)
    new = o * tanh(cell)
    if keep:
        store_four(gates, hidden, there, i, f, g, o)
    if zoneout:
        of_h, of_c = keeps(place, own_number(row, lengths, t, s, there, reverse), start, high, keep_h, keep_c, drawn)
        new = of_h * h_before + (1.0 - of_h) * new
        cell = of_c * c_before + (1.0 - of_c) * cell
    tl.store(c + after, tl.where(runs, cell, c_before), mask=there)
    store_h(h, after, y + now, seen, mask, place, there, runs, h_before, new)


@triton.jit(do_not_specialize=NUMBERS)
def sigmoid_backward(
    gates,
    c,
    dy,
    product,
    dh,
    dc,
    dgates,
    dpeephole,
    peephole,
    mask,
    lengths,
    batch,
    hidden,
    t,
    s,
    start,
    high,
    keep_h,
    keep_c,
    coupled: tl.constexpr,
    zoneout: tl.constexpr,
    drawn: tl.constexpr,
    reverse: tl.constexpr,
    block: tl.constexpr,
):
    """The gradients of one step's sums, and of the state before it.

    product [batch, hidden]: the next step's gradients of sums times R. dh, dc [batch, hidden] float32 are replaced:
    what reaches the state past R. dgates [time, batch, 4 * hidden]. dpeephole float32 [batch, 3 * hidden]: added to.
    """
    place, there, row, unit = own_units(batch, hidden, block)
    layer = batch.to(tl.int64) * hidden
    now = t.to(tl.int64) * layer + place
    wide = now + 3 * (now - unit)
    runs = still_runs(row, lengths, t, there)
    c_before = tl.load(c + s.to(tl.int64) * layer + place, mask=there, other=0.0)
    i, f, g, o = four(gates + wide, hidden, there)
    from_h = incoming(dh + place, product + place, mask, dy, place, now, there, runs)
    from_c = tl.load(dc + place, mask=there, other=0.0)
    past_h, past_c, new, d = 0.0, 0.0, from_h, from_c  # of the state before, of the cell's own h and c
    if zoneout:
        of_h, of_c = keeps(place, own_number(row, lengths, t, s, there, reverse), start, high, keep_h, keep_c, drawn)
        past_h, past_c, new, d = of_h * from_h, of_c * from_c, (1.0 - of_h) * from_h, (1.0 - of_c) * from_c
    cell = f * c_before + i * g
    shown = tanh(cell)
    do = new * shown * o * (1.0 - o)
    d += new * o * (1.0 - shown * shown)
    if peephole is not None:
        d += do * tl.load(peephole + 2 * hidden + unit, mask=there, other=0.0).to(tl.float32)
    di, df = d * g, d * c_before
    dg = d * i * (1.0 - g * g)
    df, di = ((df - di) * f * (1.0 - f), 0.0 * di) if coupled else (df * f * (1.0 - f), di * i * (1.0 - i))
    past_c += d * f
    if peephole is not None:
        past_c += di * tl.load(peephole + unit, mask=there, other=0.0).to(tl.float32)
        past_c += df * tl.load(peephole + hidden + unit, mask=there, other=0.0).to(tl.float32)
        add_peephole(
            dpeephole + place + 2 * (place - unit), hidden, there & runs, di * c_before, df * c_before, do * cell
        )
    tl.store(dh + place, tl.where(runs, past_h, from_h), mask=there)
    tl.store(dc + place, tl.where(runs, past_c, from_c), mask=there)
    store_running(dgates + wide, hidden, there, runs, di, df, dg, do)

# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false
"""The exponential cell in Triton: see pointwise.py for the arguments."""

import triton
import triton.language as tl

from .pointwise import (
    NUMBERS,
    borders,
    four,
    incoming,
    log_sigmoid,
    old_h,
    own_units,
    sigmoid,
    still_runs,
    store_four,
    store_h,
    store_running,
    tanh,
)


@triton.jit
def weighed(i, f, n, m):
    """How much the input and the memory weigh, scaled by the new stabiliser, and that."""
    log_f = log_sigmoid(f)
    empty = n == 0.0  # nothing to carry: the stabiliser starts at the first input
    scale = tl.where(empty, i, tl.maximum(log_f + m, i, propagate_nan=tl.PropagateNan.ALL))
    return tl.exp(i - scale), carries(log_f, n, m, scale), scale


@triton.jit
def carries(log_f, n, m, scale):
    """How much of the memory is carried on; none of an empty one, whose m says nothing."""
    weight = tl.exp(tl.minimum(log_f + m - scale, 0.0, propagate_nan=tl.PropagateNan.ALL))
    return tl.where(n == 0.0, 0.0, weight)


@triton.jit(do_not_specialize=NUMBERS)
def exponential_forward(
    gates,
    recurrent,
    h,
    c,
    y,
    seen,
    mask,
    lengths,
    batch,
    hidden,
    t,
    s,
    keep: tl.constexpr,
    block: tl.constexpr,
):
    """cells.exponential_cell and what follows it."""
    place, there, row, unit = own_units(batch, hidden, block)
    layer = batch.to(tl.int64) * hidden
    now = t.to(tl.int64) * layer + place
    before, after = borders(place, layer, s, keep)
    runs = still_runs(row, lengths, t, there)
    h_before = old_h(h, before, there)
    before, after = borders(place, 3 * layer, s, keep)
    c_before = tl.load(c + before, mask=there, other=0.0)
    n_before = tl.load(c + before + layer, mask=there, other=0.0)
    m_before = tl.load(c + before + 2 * layer, mask=there, other=0.0)
    gates += now + 3 * (now - unit)
    i, f, g, o = four(gates, hidden, there)
    ri, rf, rg, ro = four(recurrent + place + 3 * (place - unit), hidden, there)
    i, f, g, o = i + ri, f + rf, tanh(g + rg), sigmoid(o + ro)
    let_in, carried, m = weighed(i, f, n_before, m_before)
    cell = carried * c_before + let_in * g
    n = carried * n_before + let_in
    if keep:
        store_four(gates, hidden, there, let_in, f, g, o)
    tl.store(c + after, tl.where(runs, cell, c_before), mask=there)
    tl.store(c + after + layer, tl.where(runs, n, n_before), mask=there)
    tl.store(c + after + 2 * layer, tl.where(runs, m, m_before), mask=there)
    _, after = borders(place, layer, s, keep)
    store_h(h, after, y + now, seen, mask, place, there, runs, h_before, o * cell / n)


@triton.jit(do_not_specialize=NUMBERS)
def exponential_backward(
    gates,
    c,
    dy,
    product,
    dh,
    dc,
    dgates,
    mask,
    lengths,
    batch,
    hidden,
    t,
    s,
    block: tl.constexpr,
):
    """As sigmoid_backward; dc is [3, batch, hidden], and m counts as a constant where it is made."""
    place, there, row, unit = own_units(batch, hidden, block)
    layer = batch.to(tl.int64) * hidden
    now = t.to(tl.int64) * layer + place
    wide = now + 3 * (now - unit)
    runs = still_runs(row, lengths, t, there)
    at = c + 3 * s.to(tl.int64) * layer + place
    c_before = tl.load(at, mask=there, other=0.0)
    n_before = tl.load(at + layer, mask=there, other=1.0)
    m_before = tl.load(at + 2 * layer, mask=there, other=0.0)
    scale = tl.load(at + 5 * layer, mask=there, other=0.0)  # m after the step
    let_in, f, g, o = four(gates + wide, hidden, there)
    carried = carries(log_sigmoid(f), n_before, m_before, scale)
    cell = carried * c_before + let_in * g
    n = carried * n_before + let_in
    from_h = incoming(dh + place, product + place, mask, dy, place, now, there, runs)
    from_c = tl.load(dc + place, mask=there, other=0.0)
    from_n = tl.load(dc + layer + place, mask=there, other=0.0)
    from_m = tl.load(dc + 2 * layer + place, mask=there, other=0.0)
    shown = cell / n
    d = from_c + from_h * o / n
    dn = from_n - from_h * o * shown / n
    past_m = (d * c_before + dn * n_before) * carried  # of log f + m'
    df = past_m * sigmoid(-f)
    di = (d * g + dn) * let_in
    dg = d * let_in * (1.0 - g * g)
    do = from_h * shown * o * (1.0 - o)
    tl.store(dh + place, tl.where(runs, 0.0, from_h), mask=there)
    tl.store(dc + place, tl.where(runs, d * carried, from_c), mask=there)
    tl.store(dc + layer + place, tl.where(runs, dn * carried, from_n), mask=there)
    tl.store(dc + 2 * layer + place, tl.where(runs, past_m, from_m), mask=there)
    store_running(dgates + wide, hidden, there, runs, di, df, dg, do)

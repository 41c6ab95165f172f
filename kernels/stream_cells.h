// stream_cells.h: what a layer of streams computes of some rows: sums and cells of its blocks, projection, connection.
#ifndef HOLDFAST_STREAM_CELLS_H
#define HOLDFAST_STREAM_CELLS_H

#include "stream_plan.h"

// Some rows of a step, at one layer after the other, and which of the units this worker computes.
struct StreamShare {
    const holdfast_step *step;
    const StreamPlan *plan;
    Index first_row, rows;
    Index worker, workers; // that share the units of these rows; 1: this one has them all
    StreamWorker *own;
    StreamWorker *common; // where `shown` and `projected` stand: own, or the first worker's
    float *c;             // own.c, or of one row the slot's own
    Variant variant;      // the layer's, for these rows
};

static inline Index slot_of(const StreamShare &s, Index row)
{
    return s.step->slots ? s.step->slots[s.first_row + row] : s.first_row + row;
}

static inline void wait_for_sharers(const StreamShare &s)
{
    if (s.workers > 1) wait_for_all(const_cast<Barrier *>(&s.plan->barrier), s.workers);
}

// Some rows of some blocks, from the first of either.
struct GatePiece {
    Index block, blocks, row, rows;
};

static inline void gate_sums(const StreamShare &s, const StreamLayer &layer, const GatePiece &at, float *sums)
{
    const StreamPlan &plan = *s.plan;
    DotsJob job = {};
    job.a = s.own->input + at.row * plan.input_stride;
    job.a_stride = plan.input_stride;
    job.init = layer.bias + at.block * BLOCK_SUMS;
    job.c = sums;
    job.c_stride = BLOCK_SUMS;
    for (Index n = 0; n < layer.products; ++n) {
        job.row_scale = s.own->scale[n] + at.row;
        multiply(*plan.precision, layer.gates[n], at.block, at.blocks, at.rows, job);
        job.a += layer.x_words;
        job.init = sums;
        job.init_stride = BLOCK_SUMS;
    }
}

static inline CellRows cells_from(const StreamShare &s, Index block, Index row, float *sums)
{
    const StreamPlan &plan = *s.plan;
    CellRows cell = {};
    cell.sums = sums;
    cell.c = s.c + row * plan.c_row + block * VL;
    cell.c_stride = plan.c_row;
    cell.h = s.common->shown + row * plan.shown_row + block * VL;
    cell.h_stride = plan.shown_row;
    cell.y = s.own->y;
    cell.variant = &s.variant;
    cell.row = plan.nobody;
    cell.unit = block * VL;
    cell.present = VL; // all buffers are padded
    return cell;
}

// Cells of another kind than the plain: every block has weights of its own there. Where h is kept, they count rows in
// vectors and ours are a row of c apart: one at a time.
static void cells_of_variant(const StreamShare &s, const StreamLayer &layer, const GatePiece &at, float *sums)
{
    const Index at_once = layer.keeps_h ? 1 : at.rows;
    for (Index m = 0; m < at.rows; m += at_once) {
        CellRows cell = cells_from(s, at.block, at.row + m, sums + m * BLOCK_SUMS);
        cell.y = nullptr;
        layer.cells(at_once, cell);
    }
}

// One row: its blocks take the place of rows, as in forward.h, where it also says why they run back and forth.
static void cells_of_row(const StreamShare &s, const StreamLayer &layer, Index first, Index last)
{
    const Index groups = pieces(last - first, PANELS_AT_ONCE);
    for (Index g = 0; g < groups; ++g) {
        const Index block = first + (s.plan->turn & 1 ? groups - 1 - g : g) * PANELS_AT_ONCE;
        const Index blocks = least_index(PANELS_AT_ONCE, last - block);
        float *sums = s.own->sums + (block - first) * BLOCK_SUMS;
        if (blocks == PANELS_AT_ONCE)
            gate_sums(s, layer, {block, blocks, 0, 1}, sums);
        else
            for (Index b = 0; b < blocks; ++b) gate_sums(s, layer, {block + b, 1, 0, 1}, sums + b * BLOCK_SUMS);
    }
    for (Index block = first; layer.cells && block < last; ++block)
        cells_of_variant(s, layer, {block, 1, 0, 1}, s.own->sums + (block - first) * BLOCK_SUMS);
    if (layer.cells) return;
    CellRows cell = cells_from(s, first, 0, s.own->sums);
    cell.c_stride = cell.h_stride = VL;
    cell.unit = 0;
    for (Index block = first; block < last; ++block) s.own->y[block - first] = s.common->shown + block * VL;
    cells_forward(last - first, cell);
}

static void cells_of_rows(const StreamShare &s, const StreamLayer &layer, Index first, Index last)
{
    const Index tiles = pieces(s.rows, s.plan->precision->most_rows);
    for (Index block = first; block < last; ++block)
        for (Index t = 0; t < tiles; ++t) {
            const Index row = border(s.rows, tiles, t), count = border(s.rows, tiles, t + 1) - row;
            gate_sums(s, layer, {block, 1, row, count}, s.own->sums);
            if (layer.cells) {
                cells_of_variant(s, layer, {block, 1, row, count}, s.own->sums);
                continue;
            }
            for (Index m = 0; m < count; ++m) s.own->y[m] = s.common->shown + (row + m) * s.plan->shown_row;
            cells_forward(count, cells_from(s, block, row, s.own->sums));
        }
}

// W x and R h' of some rows and blocks, apart, since each has moments of its own.
static void normalised_products(const StreamShare &s, const StreamLayer &layer, const GatePiece &at)
{
    const StreamPlan &plan = *s.plan;
    float *const to[] = {s.common->x_sums, s.common->sums};
    DotsJob job = {};
    job.a = s.own->input + at.row * plan.input_stride;
    job.a_stride = plan.input_stride;
    job.init = plan.zeros;
    job.c_stride = layer.blocks * BLOCK_SUMS;
    for (Index n = 0; n < 2; ++n) {
        job.row_scale = s.own->scale[n] + at.row;
        Index together = 1;
        for (Index block = at.block; block < at.block + at.blocks; block += together) {
            together = at.rows == 1 ? least_index(PANELS_AT_ONCE, at.block + at.blocks - block) : 1;
            job.c = to[n] + block * BLOCK_SUMS;
            multiply(*plan.precision, layer.gates[n], block, together, at.rows, job);
        }
        job.a += layer.x_words;
    }
}

// Moments run over all units of a row: workers share the products by blocks, and then the rows, whole. c is the slot's
// own, however many rows there are.
static void normalised_cells_of_rows(const StreamShare &s, const StreamLayer &layer, Index first, Index last)
{
    const StreamPlan &plan = *s.plan;
    const Index tiles = pieces(s.rows, plan.precision->most_rows), stride = layer.blocks * BLOCK_SUMS;
    for (Index t = 0; t < tiles; ++t) {
        const Index row = border(s.rows, tiles, t), count = border(s.rows, tiles, t + 1) - row;
        normalised_products(s, layer, {first, last - first, row, count});
        wait_for_sharers(s);
        for (Index m = s.worker; m < count; m += s.workers) {
            float *c = layer.c + slot_of(s, row + m) * plan.c_row;
            const NormalisedRow of = {s.common->sums + m * stride, s.common->x_sums + m * stride, nullptr,
                                      s.common->shown + (row + m) * plan.shown_row, layer.blocks, VL};
            normalised_cells(s.variant, of, layer.bias, c, nullptr);
            normalised_outputs(s.variant, of, c, nullptr);
        }
        wait_for_sharers(s);
    }
}

// h = P (o tanh(c)), for some panels of P.
static void project(const StreamShare &s, const StreamLayer &layer, Index first, Index last)
{
    const StreamPlan &plan = *s.plan;
    for (Index m = 0; m < s.rows; ++m)
        s.own->scale[2][m] = plan.precision->put(s.own->shown_words + m * plan.shown_words_stride,
                                                 s.common->shown + m * plan.shown_row, layer.units);
    const Index tiles = pieces(s.rows, plan.precision->most_rows);
    for (Index panel = first; panel < last; ++panel)
        for (Index t = 0; t < tiles; ++t) {
            const Index row = border(s.rows, tiles, t), count = border(s.rows, tiles, t + 1) - row;
            DotsJob job = {};
            job.a = s.own->shown_words + row * plan.shown_words_stride;
            job.a_stride = plan.shown_words_stride;
            job.init = plan.zeros;
            job.c = s.common->projected + row * plan.projected_row + panel * BLOCK_SUMS;
            job.c_stride = plan.projected_row;
            job.row_scale = s.own->scale[2] + row;
            multiply(*plan.precision, layer.projection, panel, 1, count, job);
        }
}

// Where the rows' h stands before it goes back to its slots.
static inline const float *fresh_h(const StreamShare &s, const StreamLayer &layer, Index row)
{
    return layer.panels ? s.common->projected + row * s.plan->projected_row : s.common->shown + row * s.plan->shown_row;
}

// The product of some rows of x with a panel of a connection's weights.
static void skip_product(const StreamShare &s, const Matrix &with, const GatePiece &at, const float *bias, float *to)
{
    DotsJob job = {};
    job.a = s.own->input + at.row * s.plan->input_stride;
    job.a_stride = s.plan->input_stride;
    job.init = bias;
    job.c = to;
    job.c_stride = BLOCK_SUMS;
    job.row_scale = s.own->scale[0] + at.row;
    multiply(*s.plan->precision, with, at.block, 1, at.rows, job);
}

// What the layer's output and its input make together, for a row and one panel of outputs: to its slot, and out of the
// top layer.
static void connect_row(const StreamShare &s, const StreamLayer &layer, const float *x, Index panel, Index row,
                        Index m, float *y)
{
    float *out = layer.out + slot_of(s, row) * s.plan->h_row;
    const float *h = fresh_h(s, layer, row);
    for (Index n = 0; n < BLOCK_SUMS; n += VL) {
        const Index column = panel * BLOCK_SUMS + n, present = least_index(VL, layer.width - column);
        if (present <= 0) break;
        const float *reshaped = s.own->carried + m * BLOCK_SUMS + n;
        const Vec carried = layer.reshape.packed ? load(reshaped) : part(x + column, present);
        Vec both = part(h + column, present);
        if (layer.transform.packed)
            both = between(sigmoid(load(s.own->transform + m * BLOCK_SUMS + n)), both, carried);
        else
            both += carried;
        store_part(out + column, both, present);
        if (y) store_part(y + row * layer.width + column, both, present);
    }
}

// x: where the layer's input of every row stands.
template <class InputOf>
static void connect(const StreamShare &s, const StreamLayer &layer, Index first, Index last, float *y, InputOf x)
{
    const Index tiles = pieces(s.rows, s.plan->precision->most_rows);
    for (Index panel = first; panel < last; ++panel)
        for (Index t = 0; t < tiles; ++t) {
            const Index row = border(s.rows, tiles, t), count = border(s.rows, tiles, t + 1) - row;
            const GatePiece at = {panel, 1, row, count};
            if (layer.reshape.packed) skip_product(s, layer.reshape, at, s.plan->zeros, s.own->carried);
            if (layer.transform.packed)
                skip_product(s, layer.transform, at, layer.transform_bias + panel * BLOCK_SUMS, s.own->transform);
            for (Index m = 0; m < count; ++m) connect_row(s, layer, x(row + m), panel, row + m, m, y);
        }
}

#endif

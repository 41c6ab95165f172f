// stream.h: many streams through a stack of layers, one step at a time, with weights that were packed once.
//
// Of one stream, a step is a product of a matrix with a vector per layer, bound by how fast the weights come out of the
// cache. Of many it is that of forward.h, over the rows that came: gathered by slot, and scattered again.
#ifndef HOLDFAST_STREAM_H
#define HOLDFAST_STREAM_H

#include "gates.h"
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
};

static inline Index slot_of(const StreamShare &s, Index row)
{
    return s.step->slots ? s.step->slots[s.first_row + row] : s.first_row + row;
}

static inline void wait_for_sharers(const StreamShare &s)
{
    if (s.workers > 1) wait_for_all(const_cast<Barrier *>(&s.plan->barrier), s.workers);
}

static void gather(StreamShare &s, const StreamLayer &layer, const StreamLayer *below)
{
    const StreamPlan &plan = *s.plan;
    const Precision &as = *plan.precision;
    const size_t c_bytes = sizeof(float) * static_cast<size_t>(plan.blocks * VL);
    for (Index m = 0; m < s.rows; ++m) {
        const Index slot = slot_of(s, m);
        const float *x = below ? below->h + slot * plan.h_row : s.step->x + (s.first_row + m) * s.step->x_row;
        Word *input = s.own->input + m * plan.input_stride;
        s.own->scale[0][m] = as.put(input, x, layer.features);
        s.own->scale[1][m] = as.put(input + layer.x_words, layer.h + slot * plan.h_row, plan.width);
        if (s.rows > 1) memcpy(s.own->c + m * plan.c_row, layer.c + slot * plan.c_row, c_bytes);
    }
    s.c = s.rows > 1 ? s.own->c : layer.c + slot_of(s, 0) * plan.c_row;
}

// The product of some rows, from `row` on, with some panels of a matrix.
static inline void multiply(const StreamPlan &plan, const Matrix &with, Index panel, Index panels, Index rows,
                            DotsJob job)
{
    job.depth = with.words;
    job.b = with.packed + panel * with.panel_words * BLOCK_SUMS;
    job.b_stride = with.panel_words * BLOCK_SUMS;
    job.offset = with.offset ? with.offset + panel * BLOCK_SUMS : nullptr;
    job.scale = with.scale ? with.scale + panel * BLOCK_SUMS : nullptr;
    const Dots dots = panels > 1 ? plan.precision->side_by_side : plan.precision->rows[rows - 1];
    dots(job);
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
        multiply(plan, layer.gates[n], at.block, at.blocks, at.rows, job);
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
    cell.unit = block * VL;
    cell.present = VL; // all buffers are padded
    return cell;
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
            for (Index m = 0; m < count; ++m) s.own->y[m] = s.common->shown + (row + m) * s.plan->shown_row;
            cells_forward(count, cells_from(s, block, row, s.own->sums));
        }
}

// h = P (o tanh(c)), for some panels of P.
static void project(const StreamShare &s, const StreamLayer &layer, Index first, Index last, Index units)
{
    const StreamPlan &plan = *s.plan;
    for (Index m = 0; m < s.rows; ++m)
        s.own->scale[0][m] = plan.precision->put(s.own->shown_words + m * plan.shown_words_stride,
                                                 s.common->shown + m * plan.shown_row, units);
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
            job.row_scale = s.own->scale[0] + row;
            multiply(plan, layer.projection, panel, 1, count, job);
        }
}

// h and c back to their slots, and h of the top layer out: elements h_first..h_last and units c_first..c_last.
static void scatter(const StreamShare &s, const StreamLayer &layer, bool top, const Index (&h)[2], const Index (&c)[2])
{
    const StreamPlan &plan = *s.plan;
    const float *from = plan.panels ? s.common->projected : s.common->shown;
    const Index from_row = plan.panels ? plan.projected_row : plan.shown_row;
    const size_t h_bytes = sizeof(float) * static_cast<size_t>(largest_index(h[1] - h[0], 0));
    const size_t c_bytes = sizeof(float) * static_cast<size_t>(c[1] - c[0]);
    for (Index m = 0; m < s.rows; ++m) {
        const Index slot = slot_of(s, m);
        const float *row = from + m * from_row + h[0];
        memcpy(layer.h + slot * plan.h_row + h[0], row, h_bytes);
        if (top) memcpy(s.step->y + (s.first_row + m) * plan.width + h[0], row, h_bytes);
        if (s.rows > 1) memcpy(layer.c + slot * plan.c_row + c[0], s.c + m * plan.c_row + c[0], c_bytes);
    }
}

// Workers that share units wait three times: until all have read h, until o tanh(c) is complete if it is to be
// projected, and until h is written for the layer above or the next chunk.
static void layer_step(StreamShare &s, Index index)
{
    const StreamPlan &plan = *s.plan;
    const holdfast_streams *p = s.step->streams;
    const StreamLayer &layer = plan.layers[index];
    const Index first = border(plan.blocks, s.workers, s.worker), last = border(plan.blocks, s.workers, s.worker + 1);
    gather(s, layer, index ? &layer - 1 : nullptr);
    wait_for_sharers(s);
    if (s.rows == 1)
        cells_of_row(s, layer, first, last);
    else
        cells_of_rows(s, layer, first, last);
    Index h[2] = {first * VL, last * VL};
    if (plan.panels) {
        wait_for_sharers(s);
        const Index from = border(plan.panels, s.workers, s.worker), to = border(plan.panels, s.workers, s.worker + 1);
        project(s, layer, from, to, p->units);
        h[0] = from * BLOCK_SUMS;
        h[1] = to * BLOCK_SUMS;
    }
    h[1] = least_index(h[1], plan.width);
    scatter(s, layer, index + 1 == p->layers, h, {first * VL, last * VL});
    wait_for_sharers(s);
}

enum : Index { LEAST_BYTES_BY_SHARER = 512 * 1024 };

// As in layout.h: rows are shared where there are many; of a few, the units, if the weights to be read are large. How
// many workers then pay, or 1.
static inline Index unit_sharers(const StreamPlan &plan, Index rows, Index threads)
{
    const Index most = least_index(static_cast<Index>(plan.weight_bytes / LEAST_BYTES_BY_SHARER), plan.blocks);
    const Index workers = least_index(threads, most);
    return rows < 3 * workers && rows <= plan.chunk ? largest_index(workers, 1) : 1;
}

static inline Index stream_workers(const StreamPlan &plan, const holdfast_step *step)
{
    const Index threads = step->streams->threads, sharers = unit_sharers(plan, step->rows, threads);
    if (sharers > 1) return sharers;
    return static_cast<double>(step->rows) * plan.flops < 4e6 ? 1 : least_index(threads, step->rows);
}

static void stream_worker(void *job, Index worker, Index workers)
{
    const holdfast_step *step = static_cast<const holdfast_step *>(job);
    const StreamPlan *plan = static_cast<const StreamPlan *>(step->streams->memory);
    const bool by_units = workers > 1 && unit_sharers(*plan, step->rows, workers) == workers;
    const Index first = by_units ? 0 : border(step->rows, workers, worker);
    const Index last = by_units ? step->rows : border(step->rows, workers, worker + 1);
    StreamShare s = {};
    s.step = step;
    s.plan = plan;
    s.worker = by_units ? worker : 0;
    s.workers = by_units ? workers : 1;
    s.own = plan->workers + worker;
    s.common = by_units ? plan->workers : s.own;
    const Index chunks = pieces(last - first, plan->chunk);
    for (Index chunk = 0; chunk < chunks; ++chunk) {
        s.first_row = first + border(last - first, chunks, chunk);
        s.rows = first + border(last - first, chunks, chunk + 1) - s.first_row;
        for (Index layer = 0; layer < step->streams->layers; ++layer) layer_step(s, layer);
    }
}

// Marks the slots of a step, so that one that is closed or named twice is found.
static bool claim(const holdfast_step *step)
{
    const holdfast_streams *p = step->streams;
    for (Index row = 0; row < step->rows; ++row) {
        const Index slot = step->slots ? step->slots[row] : row;
        if (slot >= 0 && slot < p->slots && p->open[slot] == OPEN) {
            p->open[slot] = STEPPING;
            continue;
        }
        for (Index before = 0; before < row; ++before) p->open[step->slots ? step->slots[before] : before] = OPEN;
        return false;
    }
    return true;
}

static Outcome streams_step(const holdfast_step *step)
{
    holdfast_streams *p = step->streams;
    StreamPlan *plan = static_cast<StreamPlan *>(p->memory);
    // Not a lock: nobody ever waits. Two threads in the same streams are a mistake, and are told so.
    if (__atomic_exchange_n(&p->busy, 1, __ATOMIC_ACQUIRE)) return BUSY;
    const bool claimed = claim(step);
    if (claimed) {
        ++plan->turn;
        run_team(stream_workers(*plan, step), stream_worker, const_cast<holdfast_step *>(step));
        for (Index row = 0; row < step->rows; ++row) p->open[step->slots ? step->slots[row] : row] = OPEN;
    }
    __atomic_store_n(&p->busy, 0, __ATOMIC_RELEASE);
    return claimed ? DONE : BAD_SLOT;
}

#endif

// stream.h: many streams through a stack of layers, one step at a time, with weights that were packed once.
//
// Of one stream, a step is a product of a matrix with a vector per layer, bound by how fast the weights come out of the
// cache. Of many it is that of forward.h, over the rows that came: gathered by slot, and scattered again.
#ifndef HOLDFAST_STREAM_H
#define HOLDFAST_STREAM_H

#include "stream_cells.h"

// Where a row's input of a layer stands.
static inline const float *input_of(const StreamShare &s, const StreamLayer *below, Index row)
{
    return below ? below->out + slot_of(s, row) * s.plan->h_row : s.step->x + (s.first_row + row) * s.step->x_row;
}

// Whether c leaves its slots for a while: one row is worked on where it stands, and so are normalised ones.
static inline bool moves_c(const StreamShare &s, const StreamLayer &layer)
{
    return s.rows > 1 && !layer.normalised;
}

static void gather(StreamShare &s, const StreamLayer &layer, const StreamLayer *below)
{
    const StreamPlan &plan = *s.plan;
    const Precision &as = *plan.precision;
    const size_t c_bytes = sizeof(float) * static_cast<size_t>(layer.memories * layer.memory_stride);
    const size_t h_bytes = sizeof(float) * static_cast<size_t>(layer.width);
    for (Index m = 0; m < s.rows; ++m) {
        const Index slot = slot_of(s, m);
        const float *h = layer.h + slot * plan.h_row;
        Word *input = s.own->input + m * plan.input_stride;
        s.own->scale[0][m] = as.put(input, input_of(s, below, m), layer.features);
        s.own->scale[1][m] = as.put(input + layer.x_words, h, layer.width);
        if (moves_c(s, layer)) memcpy(s.own->c + m * plan.c_row, layer.c + slot * plan.c_row, c_bytes);
        if (layer.keeps_h) memcpy(s.own->h_before + m * plan.c_row, h, h_bytes);
    }
    s.c = s.rows > 1 ? s.own->c : layer.c + slot_of(s, 0) * plan.c_row;
    if (!layer.cells && !layer.normalised) return;
    s.variant = layer.variant;
    s.variant.c = s.c;
    s.variant.h = layer.keeps_h ? s.own->h_before : nullptr;
}

// h and c back to their slots, and h of the top layer to y, if not nullptr: elements h_first..h_last and units
// c_first..c_last.
static void scatter(const StreamShare &s, const StreamLayer &layer, float *y, const Index (&h)[2], const Index (&c)[2])
{
    const StreamPlan &plan = *s.plan;
    const size_t h_bytes = sizeof(float) * static_cast<size_t>(largest_index(h[1] - h[0], 0));
    const size_t c_bytes = sizeof(float) * static_cast<size_t>(c[1] - c[0]);
    const Index memories = moves_c(s, layer) ? layer.memories : 0;
    for (Index m = 0; m < s.rows; ++m) {
        const Index slot = slot_of(s, m);
        const float *row = fresh_h(s, layer, m) + h[0];
        memcpy(layer.h + slot * plan.h_row + h[0], row, h_bytes);
        if (y) memcpy(y + m * layer.width + h[0], row, h_bytes);
        for (Index n = 0; n < memories; ++n) {
            const Index at = n * layer.memory_stride + c[0];
            memcpy(layer.c + slot * plan.c_row + at, s.c + m * plan.c_row + at, c_bytes);
        }
    }
}

// Workers that share units wait: until all have read h; until o tanh(c) is complete if it is to be projected, and h if
// it is to be connected; and until the output is written for the layer above or the next chunk.
static void layer_step(StreamShare &s, Index index)
{
    const StreamLayer &layer = s.plan->layers[index], *below = index ? &layer - 1 : nullptr;
    const auto from = [&](Index count) { return border(count, s.workers, s.worker); };
    const auto to = [&](Index count) { return border(count, s.workers, s.worker + 1); };
    const Index first = from(layer.blocks), last = to(layer.blocks);
    gather(s, layer, below);
    wait_for_sharers(s);
    if (layer.normalised)
        normalised_cells_of_rows(s, layer, first, last);
    else if (s.rows == 1)
        cells_of_row(s, layer, first, last);
    else
        cells_of_rows(s, layer, first, last);
    Index h[2] = {first * VL, last * VL};
    if (layer.panels) {
        wait_for_sharers(s);
        project(s, layer, from(layer.panels), to(layer.panels));
        h[0] = from(layer.panels) * BLOCK_SUMS;
        h[1] = to(layer.panels) * BLOCK_SUMS;
    }
    h[1] = least_index(h[1], layer.width);
    float *y = index + 1 == s.step->streams->layers ? s.step->y + s.first_row * layer.width : nullptr;
    scatter(s, layer, layer.connection ? nullptr : y, h, {first * VL, last * VL});
    wait_for_sharers(s);
    if (!layer.connection) return;
    connect(s, layer, from(layer.skip_panels), to(layer.skip_panels), y,
            [&](Index row) { return input_of(s, below, row); });
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

// backward.h: the gradients of one layer.
//
// Time is walked backwards in chunks of some hundred row-steps. Within a chunk the recurrence runs step by step and leaves
// the gradients of the gates in a buffer that stays in the cache; then dx and the weight gradients are made from it with
// large products, each worker taking its own part of the result. Every sum over rows and steps runs in one fixed order.
#ifndef HOLDFAST_BACKWARD_H
#define HOLDFAST_BACKWARD_H

#include "gates.h"
#include "pack.h"
#include "threads.h"

enum : Index { CHUNK_ROWS = 256 };

struct BackwardWorker {
    const float **y, **dy;  // [rows]
    float *dx;              // [TILE_ROWS][PANEL*VL]
};

struct Backward {
    const holdfast_lstm *p;
    const holdfast_lstm_gradients *g;
    Schedule schedule;
    Index blocks;
    Panels recurrent, input;  // the weights, by columns
    Index chunk_rows;         // what the two buffers below hold
    float *dgates;            // [chunk_rows][blocks][4 gates][VL], dgates_stride apart
    Index dgates_stride;
    float *entered;           // [chunk_rows] h before (padded to VL) | x (padded to VL), entered_stride apart
    Index entered_stride, x_column;
    float *dweights;          // [blocks][4 gates][VL] rows of entered_stride: the gradient of both weights
    float *dbias;             // [blocks][4 gates][VL]
    float *zeros;             // [PANEL*VL]
    float *dh;                // [rows], dh_stride apart
    Index dh_stride;
    float *dc;                // [blocks][rows][VL]
    float *c0;                // [blocks][rows][VL]
    BackwardWorker *workers;
    Barrier *barrier;
};

static Index plan_backward(Backward &b, const holdfast_lstm *p, char *base)
{
    Arena arena = {base, 0};
    b.p = p;
    b.schedule = take_schedule(arena, p);
    b.blocks = blocks_of(p);
    const Index depth = b.blocks * BLOCK_SUMS;
    b.recurrent = take_panels(arena, p->units, depth);
    b.input = take_panels(arena, p->features, depth);
    b.chunk_rows = largest_index(p->rows, least_index(CHUNK_ROWS, p->rows * p->steps));
    b.dgates_stride = row_stride(depth);
    b.dgates = arena.take<float>(b.chunk_rows * b.dgates_stride);
    b.x_column = b.blocks * VL;
    b.entered_stride = row_stride(b.x_column + b.input.vectors * VL);
    b.entered = arena.take<float>(b.chunk_rows * b.entered_stride);
    b.dweights = arena.take<float>(depth * b.entered_stride);
    b.dbias = arena.take<float>(depth);
    b.zeros = arena.take<float>(PANEL * VL);
    b.dh_stride = row_stride(b.blocks * VL);
    b.dh = arena.take<float>(p->rows * b.dh_stride);
    b.dc = arena.take<float>(b.blocks * p->rows * VL);
    b.c0 = arena.take<float>(b.blocks * p->rows * VL);
    b.barrier = arena.take<Barrier>(1);
    const Index workers = useful_workers(p);
    b.workers = arena.take<BackwardWorker>(workers);
    for (Index w = 0; w < workers; ++w) {
        BackwardWorker own = {};
        own.y = arena.take<const float *>(p->rows);
        own.dy = arena.take<const float *>(p->rows);
        own.dx = arena.take<float>(TILE_ROWS * PANEL * VL);
        if (base) b.workers[w] = own;
    }
    return arena.used;
}

// The gradient that comes in from after the last step, and c0 in blocks.
static void load_gradients(const Backward &b, const Share &share)
{
    const holdfast_lstm *p = b.p;
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index place = share.first_place; place < share.last_place; ++place) {
            const Index present = least_index(VL, p->units - block * VL);
            const Index from = b.schedule.row[place] * p->units + block * VL, to = (block * p->rows + place) * VL;
            store(b.dh + place * b.dh_stride + block * VL, b.g->dh_last ? load_part(b.g->dh_last + from, present) : Vec{});
            store(b.dc + to, b.g->dc_last ? load_part(b.g->dc_last + from, present) : Vec{});
            store(b.c0 + to, p->c0 ? load_part(p->c0 + from, present) : Vec{});
        }
}

static void gates_of_step(const Backward &b, BackwardWorker &own, const Share &share, Index step, float *dgates)
{
    const holdfast_lstm *p = b.p;
    const Schedule &s = b.schedule;
    const Index rows = least_index(share.last_place, s.active[step]) - share.first_place;
    for (Index m = 0; m < rows; ++m) {
        const Index place = share.first_place + m;
        own.y[m] = y_at(s, p, place, step);
        if (b.g->dy) own.dy[m] = b.g->dy + time_of(s, p, place, step) * b.g->dy_step + s.row[place] * b.g->dy_row;
    }
    for (Index block = share.first_block; rows > 0 && block < share.last_block; ++block) {
        const Index at = (block * p->rows + share.first_place) * VL;
        const float *c_before = step ? kept_at(s, p, step - 1, block, share.first_place) + 4 * VL : b.c0 + at;
        cells_backward(rows, {kept_at(s, p, step, block, share.first_place), c_before, step ? KEPT_PER_UNIT * VL : VL,
                              own.y, b.g->dy ? own.dy : nullptr,
                              b.dh + share.first_place * b.dh_stride + block * VL, b.dh_stride, b.dc + at,
                              dgates + share.first_place * b.dgates_stride + block * BLOCK_SUMS, b.dgates_stride,
                              block * VL, least_index(VL, p->units - block * VL)});
    }
}

// dh of the step before: the gates' gradients times the recurrent weights.
static void state_of_step(const Backward &b, const Share &share, Index first_panel, Index last_panel, Index step,
                          const float *dgates)
{
    const Index rows = least_index(share.last_place, b.schedule.active[step]) - share.first_place;
    if (rows <= 0) return;
    const Index tiles = pieces(rows, TILE_ROWS);
    for (Index i = first_panel; i < last_panel; ++i) {
        const Index panel = step & 1 ? first_panel + last_panel - 1 - i : i, width = b.recurrent.width(panel);
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const Index place = share.first_place + first;
            tile_of[BY_ROWS][count - 1][width - 1](
                {b.recurrent.depth, dgates + place * b.dgates_stride, b.dgates_stride, b.recurrent.at(panel), width * VL,
                 b.zeros, 0, b.dh + place * b.dh_stride + b.recurrent.first(panel) * VL, b.dh_stride});
        }
    }
}

// A run of steps [first, last) and the row-steps in it, numbered place by place, step by step, latest step first.
struct Chunk {
    Index first, last, rows;
};

static Chunk chunk_before(const Backward &b, Index last)
{
    Index first = last, rows = 0;
    while (first > 0 && (first == last || rows + b.schedule.active[first - 1] <= b.chunk_rows))
        rows += b.schedule.active[--first];
    return {first, last, rows};
}

// Which step and place row-step `index` of the chunk is.
struct Walk {
    Index step, place;
};

static inline Walk walk_to(const Backward &b, const Chunk &chunk, Index index)
{
    Walk at = {chunk.last - 1, index};
    while (at.step > chunk.first && at.place >= b.schedule.active[at.step]) at.place -= b.schedule.active[at.step--];
    return at;
}

static inline void walk_on(const Backward &b, Walk &at)
{
    if (++at.place == b.schedule.active[at.step]) at = {at.step - 1, 0};
}

// What went into each row-step: h of the step before and x, side by side.
static void gather_entered(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    const holdfast_lstm *p = b.p;
    const Schedule &s = b.schedule;
    const size_t units = static_cast<size_t>(p->units), features = static_cast<size_t>(p->features);
    Walk at = walk_to(b, chunk, first);
    for (Index k = first; k < last; ++k, walk_on(b, at)) {
        float *to = b.entered + k * b.entered_stride;
        const float *h = at.step ? y_at(s, p, at.place, at.step - 1) : p->h0 ? p->h0 + s.row[at.place] * p->units : nullptr;
        if (h) memcpy(to, h, sizeof(float) * units);
        else memset(to, 0, sizeof(float) * units);
        for (Index n = p->units; n < b.x_column; ++n) to[n] = 0.0f;
        memcpy(to + b.x_column, x_at(s, p, at.place, at.step), sizeof(float) * features);
        for (Index n = b.x_column + p->features; n < b.entered_stride; ++n) to[n] = 0.0f;
    }
}

static void input_gradient(const Backward &b, BackwardWorker &own, const Chunk &chunk, Index first, Index last)
{
    const holdfast_lstm *p = b.p;
    const Index rows = last - first, tiles = pieces(rows, TILE_ROWS);
    for (Index panel = 0; panel < b.input.count; ++panel) {
        const Index width = b.input.width(panel), column = b.input.first(panel) * VL;
        const size_t bytes = sizeof(float) * static_cast<size_t>(least_index(width * VL, p->features - column));
        Walk at = rows > 0 ? walk_to(b, chunk, first) : Walk{0, 0};
        for (Index t = 0; t < tiles; ++t) {
            const Index k = first + border(rows, tiles, t), count = first + border(rows, tiles, t + 1) - k;
            tile_of[BY_ROWS][count - 1][width - 1]({b.input.depth, b.dgates + k * b.dgates_stride, b.dgates_stride,
                                                    b.input.at(panel), width * VL, b.zeros, 0, own.dx, width * VL});
            for (Index m = 0; m < count; ++m, walk_on(b, at)) {
                const Index row = b.schedule.row[at.place], time = time_of(b.schedule, p, at.place, at.step);
                memcpy(b.g->dx + time * b.g->dx_step + row * b.g->dx_row + column, own.dx + m * width * VL, bytes);
            }
        }
    }
}

// dweights += dgates^T * entered, for the gates first..last; the first chunk starts from zero.
static void weight_gradient(const Backward &b, const Chunk &chunk, Index first, Index last, bool fresh)
{
    const Index vectors = (b.x_column + b.input.vectors * VL) / VL, parts = pieces(vectors, PANEL);
    const Index tiles = pieces(last - first, TILE_ROWS);
    for (Index part = 0; part < parts; ++part) {
        const Index column = border(vectors, parts, part) * VL, width = border(vectors, parts, part + 1) - column / VL;
        for (Index t = 0; t < tiles; ++t) {
            const Index gate = first + border(last - first, tiles, t);
            const Index count = first + border(last - first, tiles, t + 1) - gate;
            float *to = b.dweights + gate * b.entered_stride + column;
            tile_of[BY_COLUMNS][count - 1][width - 1]({chunk.rows, b.dgates + gate, b.dgates_stride, b.entered + column,
                                                       b.entered_stride, fresh ? b.zeros : to, fresh ? 0 : b.entered_stride,
                                                       to, b.entered_stride});
        }
    }
}

static void bias_gradient(const Backward &b, const Chunk &chunk, Index first, Index last, bool fresh)
{
    for (Index gate = first; gate < last; gate += BLOCK_SUMS) {
        Vec sum[GATES];
        for (Index n = 0; n < GATES; ++n) sum[n] = fresh ? Vec{} : load(b.dbias + gate + n * VL);
        for (Index k = 0; k < chunk.rows; ++k)
            for (Index n = 0; n < GATES; ++n) sum[n] += load(b.dgates + k * b.dgates_stride + gate + n * VL);
        for (Index n = 0; n < GATES; ++n) store(b.dbias + gate + n * VL, sum[n]);
    }
}

// The weight gradients leave in torch's order of rows.
static void hand_out(const Backward &b, Index first, Index last, bool nothing)
{
    const holdfast_lstm *p = b.p;
    for (Index k = first; k < last; ++k) {
        const Index row = weight_row(k, p->units);
        if (row < 0) continue;
        const float *from = b.dweights + k * b.entered_stride;
        const size_t units = sizeof(float) * static_cast<size_t>(p->units);
        const size_t features = sizeof(float) * static_cast<size_t>(p->features);
        float *recurrent = b.g->dw_recurrent ? b.g->dw_recurrent + row * p->units : nullptr;
        float *input = b.g->dw_input ? b.g->dw_input + row * p->features : nullptr;
        if (recurrent && nothing) memset(recurrent, 0, units);
        else if (recurrent) memcpy(recurrent, from, units);
        if (input && nothing) memset(input, 0, features);
        else if (input) memcpy(input, from + b.x_column, features);
        if (b.g->dbias) b.g->dbias[row] = nothing ? 0.0f : b.dbias[k];
    }
}

static void hand_out_states(const Backward &b, const Share &share)
{
    const holdfast_lstm *p = b.p;
    for (Index place = share.first_place; place < share.last_place; ++place) {
        const Index row = b.schedule.row[place];
        for (Index block = share.first_block; block < share.last_block; ++block) {
            const Index unit = block * VL, present = least_index(VL, p->units - unit), to = row * p->units + unit;
            if (b.g->dh0) store_part(b.g->dh0 + to, load(b.dh + place * b.dh_stride + unit), present);
            if (b.g->dc0) store_part(b.g->dc0 + to, load(b.dc + (block * p->rows + place) * VL), present);
        }
        for (Index time = b.schedule.length[place]; b.g->dx && share.first_block == 0 && time < p->steps; ++time)
            memset(b.g->dx + time * b.g->dx_step + row * b.g->dx_row, 0, sizeof(float) * static_cast<size_t>(p->features));
    }
}

static void recur(const Backward &b, BackwardWorker &own, const Share &share, const Chunk &chunk, Index first_panel,
                  Index last_panel, Index team)
{
    float *dgates = b.dgates;
    for (Index step = chunk.last - 1; step >= chunk.first; --step) {
        gates_of_step(b, own, share, step, dgates);
        wait_for_all(b.barrier, team);
        state_of_step(b, share, first_panel, last_panel, step, dgates);
        dgates += b.schedule.active[step] * b.dgates_stride;
    }
}

static void backward_worker(void *job, Index worker, Index workers)
{
    Backward &b = *static_cast<Backward *>(job);
    const holdfast_lstm *p = b.p;
    const bool by_units = cut_by_units(p, workers);
    const Index panels = b.recurrent.count;
    const Index first_panel = by_units ? border(panels, workers, worker) : 0;
    const Index last_panel = by_units ? border(panels, workers, worker + 1) : panels;
    const Share share = by_units ? Share{0, p->rows, b.recurrent.first(first_panel), b.recurrent.first(last_panel)}
                                 : Share{place_border(b.schedule, p, workers, worker),
                                         place_border(b.schedule, p, workers, worker + 1), 0, b.blocks};
    for (Index panel = border(panels, workers, worker); panel < border(panels, workers, worker + 1); ++panel)
        pack_panel(b.recurrent, panel, p->w_recurrent, p->units, p->units);
    for (Index panel = worker; b.g->dx && panel < b.input.count; panel += workers)
        pack_panel(b.input, panel, p->w_input, p->units, p->features);
    load_gradients(b, share);
    wait_for_all(b.barrier, workers);
    const Index first_gate = border(b.blocks, workers, worker) * BLOCK_SUMS;
    const Index last_gate = border(b.blocks, workers, worker + 1) * BLOCK_SUMS;
    const bool want_weights = b.g->dw_input || b.g->dw_recurrent;
    bool fresh = true;
    Index left = p->steps;
    while (left > 0 && b.schedule.active[left - 1] == 0) --left;
    while (left > 0) {
        const Chunk chunk = chunk_before(b, left);
        recur(b, b.workers[worker], share, chunk, first_panel, last_panel, by_units ? workers : 1);
        const Index first_row = border(chunk.rows, workers, worker), last_row = border(chunk.rows, workers, worker + 1);
        if (want_weights && first_row < last_row) gather_entered(b, chunk, first_row, last_row);
        wait_for_all(b.barrier, workers);
        if (b.g->dx) input_gradient(b, b.workers[worker], chunk, first_row, last_row);
        if (want_weights) weight_gradient(b, chunk, first_gate, last_gate, fresh);
        if (b.g->dbias) bias_gradient(b, chunk, first_gate, last_gate, fresh);
        wait_for_all(b.barrier, workers);
        fresh = false;
        left = chunk.first;
    }
    hand_out(b, first_gate, last_gate, fresh);
    hand_out_states(b, share);
}

static Outcome backward(const holdfast_lstm *p, const holdfast_lstm_gradients *g)
{
    if (!kept_is_ours(p)) return OTHER_KEPT;
    Backward b;
    plan_backward(b, p, static_cast<char *>(p->scratch));
    b.g = g;
    fill_schedule(b.schedule, p);
    *b.barrier = {};
    memset(b.zeros, 0, sizeof(float) * PANEL * VL);
    run_team(useful_workers(p), backward_worker, &b);
    return DONE;
}

#endif

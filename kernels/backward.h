// backward.h: the gradients of one layer.
//
// Time is walked backwards in chunks of some hundred row-steps. Within a chunk the recurrence runs step by step and
// leaves the gradients of the gates in a buffer that stays in the cache; then dx and the weight gradients are made from
// it with large products, each worker taking its own part of the result. Every sum over rows and steps runs in one
// fixed order.
#ifndef HOLDFAST_BACKWARD_H
#define HOLDFAST_BACKWARD_H

#include "gates.h"
#include "pack.h"
#include "threads.h"

enum : Index { CHUNK_ROWS = 512 };

struct BackwardWorker {
    float *tile; // [TILE_ROWS][PANEL*VL]
};

struct Vector {
    float *at;
    Index stride;
};

struct Backward {
    const holdfast_lstm *p;
    const holdfast_lstm_gradients *g;
    Schedule schedule;
    Index blocks;
    Panels recurrent, input; // the weights, by columns
    Index chunk_rows;        // what the two buffers below hold
    float *dgates;           // [chunk_rows][blocks][4 gates][VL], dgates_stride apart
    Index dgates_stride;
    Index state_vectors; // vectors of h, padded; those of x follow
    Panels entered;      // h before | x by columns: each panel [chunk_rows][its columns]
    Vector *columns;     // [entered.vectors] where each vector of columns stands in it
    Panels dweights;     // the gradient of both weights, in the same panels: [blocks][4 gates][VL][its columns]
    float *dbias;        // [blocks][4 gates][VL]
    float *zeros;        // [PANEL*VL]
    float *dh;           // [rows], dh_stride apart
    Index dh_stride;
    float *dc; // [rows], dh_stride apart
    float *c0; // [rows], dh_stride apart
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
    b.state_vectors = b.blocks;
    const Index columns = (b.state_vectors + b.input.vectors) * VL;
    b.entered = take_panels(arena, columns, b.chunk_rows);
    b.columns = arena.take<Vector>(b.entered.vectors);
    b.dweights = take_panels(arena, columns, depth);
    b.dbias = arena.take<float>(depth);
    b.zeros = arena.take<float>(PANEL * VL);
    b.dh_stride = row_stride(b.blocks * VL);
    b.dh = arena.take<float>(p->rows * b.dh_stride);
    b.dc = arena.take<float>(p->rows * b.dh_stride);
    b.c0 = arena.take<float>(p->rows * b.dh_stride);
    b.barrier = arena.take<Barrier>(1);
    const Index workers = useful_workers(p);
    b.workers = arena.take<BackwardWorker>(workers);
    for (Index w = 0; w < workers; ++w) {
        BackwardWorker own = {};
        own.tile = arena.take<float>(TILE_ROWS * PANEL * VL);
        if (base) b.workers[w] = own;
    }
    return arena.used;
}

// The gradient that comes in from after the last step, and c0, both padded to whole blocks.
static void load_gradients(const Backward &b, const Share &share)
{
    const holdfast_lstm *p = b.p;
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index place = share.first_place; place < share.last_place; ++place) {
            const Index present = least_index(VL, p->units - block * VL);
            const Index from = b.schedule.row[place] * p->units + block * VL, to = place * b.dh_stride + block * VL;
            store(b.dh + to, b.g->dh_last ? load_part(b.g->dh_last + from, present) : Vec{});
            store(b.dc + to, b.g->dc_last ? load_part(b.g->dc_last + from, present) : Vec{});
            store(b.c0 + to, p->c0 ? load_part(p->c0 + from, present) : Vec{});
        }
}

static void gates_of_step(const Backward &b, const Share &share, Index step, float *dgates)
{
    const holdfast_lstm *p = b.p;
    const Schedule &s = b.schedule;
    const Index first = share.first_block, blocks = share.last_block - first, unit = first * VL;
    const Index present_in_last = least_index(VL, p->units - (share.last_block - 1) * VL);
    for (Index place = share.first_place; place < least_index(share.last_place, s.active[step]); ++place) {
        const Index state = place * b.dh_stride + unit;
        const float *c_before = step ? kept_at(s, p, step - 1, place, first) + 4 * VL : b.c0 + state;
        const Index dy_at = row_step_at(s, p, place, step, b.g->dy_step, b.g->dy_row) + unit;
        cells_backward({kept_at(s, p, step, place, first), c_before, step ? KEPT_PER_UNIT * VL : VL,
                        y_at(s, p, place, step) + unit, b.g->dy ? b.g->dy + dy_at : nullptr, b.dh + state, b.dc + state,
                        dgates + place * b.dgates_stride + first * BLOCK_SUMS},
                       blocks, present_in_last);
    }
}

// dh of the step before: the gates' gradients times the recurrent weights.
static void state_of_step(const Backward &b, const Share &share, Index first_panel, Index last_panel, Index step,
                          const float *dgates)
{
    const Index rows = least_index(share.last_place, b.schedule.active[step]) - share.first_place;
    if (rows <= 0) return;
    const Index tiles = pieces(rows, TILE_ROWS);
    // What the gates of the step before will read is fetched meanwhile: it was written long ago.
    const float *ahead = step ? kept_at(b.schedule, b.p, step - 1, share.first_place, 0) : nullptr;
    const float *ahead_end = ahead + rows * b.blocks * KEPT_PER_UNIT * VL;
    for (Index i = first_panel; i < last_panel; ++i) {
        const Index panel = step & 1 ? first_panel + last_panel - 1 - i : i, width = b.recurrent.width(panel);
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const Index place = share.first_place + first;
            tile_of[BY_ROWS][count - 1][width - 1]({b.recurrent.depth, dgates + place * b.dgates_stride,
                                                    b.dgates_stride, b.recurrent.at(panel), width * VL, b.zeros, 0,
                                                    b.dh + place * b.dh_stride + b.recurrent.first(panel) * VL,
                                                    b.dh_stride, ahead, ahead ? 16 : 0});
            if (ahead && (ahead += b.recurrent.depth * 16) >= ahead_end) ahead = nullptr;
        }
    }
}

// A run of steps [first, last) and the row-steps in it, numbered place by place, step by step, latest step first.
struct Chunk {
    Index first, last, rows;
    bool fresh; // the first to be computed
};

static Chunk chunk_before(const Backward &b, Index last, bool fresh)
{
    Index first = last, rows = 0;
    while (first > 0 && (first == last || rows + b.schedule.active[first - 1] <= b.chunk_rows))
        rows += b.schedule.active[--first];
    return {first, last, rows, fresh};
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

static void copy_columns(const Vector *columns, Index k, const float *from, Index count)
{
    const Index whole = count / VL;
    for (Index v = 0; v < whole; ++v) store(columns[v].at + k * columns[v].stride, from ? load(from + v * VL) : Vec{});
    if (whole * VL < count)
        store(columns[whole].at + k * columns[whole].stride,
              from ? load_part(from + whole * VL, count - whole * VL) : Vec{});
}

// What went into each row-step: h of the step before and x, side by side.
static void gather_entered(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    const holdfast_lstm *p = b.p;
    const Schedule &s = b.schedule;
    Walk at = walk_to(b, chunk, first);
    for (Index k = first; k < last; ++k, walk_on(b, at)) {
        const float *h = at.step ? y_at(s, p, at.place, at.step - 1)
                         : p->h0 ? p->h0 + s.row[at.place] * p->units
                                 : nullptr;
        copy_columns(b.columns, k, h, p->units);
        copy_columns(b.columns + b.state_vectors, k, x_at(s, p, at.place, at.step), p->features);
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
                                                    b.input.at(panel), width * VL, b.zeros, 0, own.tile, width * VL,
                                                    nullptr, 0});
            for (Index m = 0; m < count; ++m, walk_on(b, at)) {
                const Index dx_at = row_step_at(b.schedule, p, at.place, at.step, b.g->dx_step, b.g->dx_row);
                memcpy(b.g->dx + dx_at + column, own.tile + m * width * VL, bytes);
            }
        }
    }
}

// Columns column..column+count of row k of the weight gradient, to their places in torch's order.
static void hand_out_row(const Backward &b, Index k, Index column, Index count, const float *from)
{
    const holdfast_lstm *p = b.p;
    const Index row = weight_row(k, p->units);
    if (row < 0) return;
    const Index units = least_index(column + count, p->units) - column;
    if (b.g->dw_recurrent && units > 0)
        memcpy(b.g->dw_recurrent + row * p->units + column, from, sizeof(float) * static_cast<size_t>(units));
    const Index x_column = b.state_vectors * VL;
    const Index skipped = largest_index(x_column - column, 0), feature = column + skipped - x_column;
    const Index features = least_index(count - skipped, p->features - feature);
    if (b.g->dw_input && features > 0)
        memcpy(b.g->dw_input + row * p->features + feature, from + skipped,
               sizeof(float) * static_cast<size_t>(features));
}

// One panel of dweights += dgates^T * entered, gates first..last. The chunk computed first starts from zero, and the
// one computed last hands its sums out while they are at hand.
static void weight_gradient(const Backward &b, BackwardWorker &own, const Chunk &chunk, Index first, Index last,
                            Index panel)
{
    const Index tiles = pieces(last - first, TILE_ROWS), width = b.dweights.width(panel), stride = width * VL;
    for (Index t = 0; t < tiles; ++t) {
        const Index gate = first + border(last - first, tiles, t);
        const Index count = first + border(last - first, tiles, t + 1) - gate;
        float *sums = b.dweights.at(panel) + gate * stride;
        // Wide layers keep these sums in the third-level cache: the next tile's are fetched while this one works.
        const float *ahead = chunk.fresh ? nullptr : sums + count * stride;
        tile_of[BY_COLUMNS][count - 1][width - 1]({chunk.rows, b.dgates + gate, b.dgates_stride, b.entered.at(panel),
                                                   stride, chunk.fresh ? b.zeros : sums, chunk.fresh ? 0 : stride,
                                                   chunk.first ? sums : own.tile, stride, ahead,
                                                   ahead ? pieces(TILE_ROWS * stride, chunk.rows) : 0});
        for (Index m = 0; !chunk.first && m < count; ++m)
            hand_out_row(b, gate + m, b.dweights.first(panel) * VL, stride, own.tile + m * stride);
    }
}

static void bias_gradient(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    for (Index gate = first; gate < last; gate += BLOCK_SUMS) {
        Vec sum[GATES];
        for (Index n = 0; n < GATES; ++n) sum[n] = chunk.fresh ? Vec{} : load(b.dbias + gate + n * VL);
        for (Index k = 0; k < chunk.rows; ++k)
            for (Index n = 0; n < GATES; ++n) sum[n] += load(b.dgates + k * b.dgates_stride + gate + n * VL);
        for (Index n = 0; n < GATES; ++n) store(b.dbias + gate + n * VL, sum[n]);
        for (Index k = gate; !chunk.first && k < gate + BLOCK_SUMS; ++k)
            if (weight_row(k, b.p->units) >= 0) b.g->dbias[weight_row(k, b.p->units)] = b.dbias[k];
    }
}

// Without a single step there is no last chunk to hand out the sums.
static void hand_out_zeros(const Backward &b)
{
    const size_t rows = GATES * static_cast<size_t>(b.p->units) * sizeof(float);
    if (b.g->dw_recurrent) memset(b.g->dw_recurrent, 0, rows * static_cast<size_t>(b.p->units));
    if (b.g->dw_input) memset(b.g->dw_input, 0, rows * static_cast<size_t>(b.p->features));
    if (b.g->dbias) memset(b.g->dbias, 0, rows);
}

static void hand_out_states(const Backward &b, const Share &share)
{
    const holdfast_lstm *p = b.p;
    for (Index place = share.first_place; place < share.last_place; ++place) {
        const Index row = b.schedule.row[place];
        for (Index block = share.first_block; block < share.last_block; ++block) {
            const Index unit = block * VL, present = least_index(VL, p->units - unit), to = row * p->units + unit;
            if (b.g->dh0) store_part(b.g->dh0 + to, load(b.dh + place * b.dh_stride + unit), present);
            if (b.g->dc0) store_part(b.g->dc0 + to, load(b.dc + place * b.dh_stride + unit), present);
        }
        const bool fill = b.g->dx && !p->packed && share.first_block == 0; // zeros past the row's length
        for (Index time = b.schedule.length[place]; fill && time < p->steps; ++time)
            memset(b.g->dx + time * b.g->dx_step + row * b.g->dx_row, 0,
                   sizeof(float) * static_cast<size_t>(p->features));
    }
}

// What one worker does.
struct Duty {
    Index worker, workers;
    bool by_units;
    Index first_panel, last_panel; // of the recurrent weights: which part of dh
    Share share;                   // of the gates' gradients
    Index first_gate, last_gate;   // of the weight gradients
};

static Duty duty_of(const Backward &b, Index worker, Index workers)
{
    const holdfast_lstm *p = b.p;
    const Panels &r = b.recurrent;
    Duty d = {worker, workers, cut_by_units(p, workers), 0, r.count, {}, 0, 0};
    if (d.by_units) {
        d.first_panel = border(r.count, workers, worker);
        d.last_panel = border(r.count, workers, worker + 1);
        d.share = {0, p->rows, r.first(d.first_panel), r.first(d.last_panel)};
    } else {
        d.share = {place_border(b.schedule, p, workers, worker), place_border(b.schedule, p, workers, worker + 1), 0,
                   b.blocks};
    }
    d.first_gate = border(b.blocks, workers, worker) * BLOCK_SUMS;
    d.last_gate = border(b.blocks, workers, worker + 1) * BLOCK_SUMS;
    return d;
}

static void prepare(const Backward &b, const Duty &d)
{
    const holdfast_lstm *p = b.p;
    for (Index panel = d.worker; panel < b.recurrent.count; panel += d.workers)
        pack_panel(b.recurrent, panel, p->w_recurrent, p->units, p->units);
    for (Index panel = d.worker; b.g->dx && panel < b.input.count; panel += d.workers)
        pack_panel(b.input, panel, p->w_input, p->units, p->features);
    load_gradients(b, d.share);
}

static void recur(const Backward &b, const Duty &d, const Chunk &chunk)
{
    float *dgates = b.dgates;
    for (Index step = chunk.last - 1; step >= chunk.first; --step) {
        gates_of_step(b, d.share, step, dgates);
        if (d.by_units) wait_for_all(b.barrier, d.workers);
        state_of_step(b, d.share, d.first_panel, d.last_panel, step, dgates);
        dgates += b.schedule.active[step] * b.dgates_stride;
    }
}

static void backward_chunk(const Backward &b, const Duty &d, const Chunk &chunk)
{
    BackwardWorker &own = b.workers[d.worker];
    const bool want_weights = b.g->dw_input || b.g->dw_recurrent;
    const Index first_row = border(chunk.rows, d.workers, d.worker);
    const Index last_row = border(chunk.rows, d.workers, d.worker + 1);
    recur(b, d, chunk);
    if (want_weights && first_row < last_row) gather_entered(b, chunk, first_row, last_row);
    wait_for_all(b.barrier, d.workers);
    if (b.g->dx) input_gradient(b, own, chunk, first_row, last_row);
    for (Index panel = 0; want_weights && panel < b.dweights.count; ++panel)
        weight_gradient(b, own, chunk, d.first_gate, d.last_gate, panel);
    if (b.g->dbias) bias_gradient(b, chunk, d.first_gate, d.last_gate);
    wait_for_all(b.barrier, d.workers);
}

static void backward_worker(void *job, Index worker, Index workers)
{
    const Backward &b = *static_cast<const Backward *>(job);
    const Duty d = duty_of(b, worker, workers);
    prepare(b, d);
    wait_for_all(b.barrier, workers);
    Index left = b.p->steps;
    while (left > 0 && b.schedule.active[left - 1] == 0) --left;
    if (left == 0 && worker == 0) hand_out_zeros(b);
    for (bool fresh = true; left > 0; fresh = false) {
        const Chunk chunk = chunk_before(b, left, fresh);
        backward_chunk(b, d, chunk);
        left = chunk.first;
    }
    hand_out_states(b, d.share);
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
    for (Index panel = 0; panel < b.entered.count; ++panel) {
        const Index first = b.entered.first(panel), width = b.entered.width(panel);
        for (Index v = 0; v < width; ++v) b.columns[first + v] = {b.entered.at(panel) + v * VL, width * VL};
    }
    run_team(useful_workers(p), backward_worker, &b);
    return DONE;
}

#endif

// weight_gradients.h: what a chunk of steps adds to the gradients of x and of everything learnt, in large products.
#ifndef HOLDFAST_WEIGHT_GRADIENTS_H
#define HOLDFAST_WEIGHT_GRADIENTS_H

#include "backward_plan.h"

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

// One row of factors, as it is or through a mask; nullptr is zero.
struct Factor {
    const float *from, *mask;

    Vec at(Index column, Index present) const
    {
        if (!from) return Vec{};
        return mask ? part(from + column, present) * part(mask + column, present) : part(from + column, present);
    }
};

static void copy_columns(const Vector *columns, Index k, const Factor &row, Index count)
{
    for (Index v = 0; v * VL < count; ++v)
        store(columns[v].at + k * columns[v].stride, row.at(v * VL, least_index(VL, count - v * VL)));
}

static void pair_columns(Factors factors, const Vector *columns, Index k, const Factor &first, const Factor &second,
                         Index count)
{
    for (Index v = 0; v * VL < count; ++v) {
        const Index present = least_index(VL, count - v * VL);
        store_pairs({factors, columns[v].low}, columns[v].at + k * columns[v].stride, first.at(v * VL, present),
                    second.at(v * VL, present));
    }
}

// What went into a row-step: h of the step before, as R saw it, and x.
struct Entered {
    Factor h, x;
};

static inline Entered entered_at(const Backward &b, const Walk &at)
{
    const holdfast_lstm *p = b.p;
    const Schedule &s = b.schedule;
    const Index state = s.row[at.place] * h_width(p);
    const float *h = at.step ? y_at(s, p, at.place, at.step - 1) : p->h0 ? p->h0 + state : nullptr;
    return {{h, p->cell && p->cell->h_mask ? p->cell->h_mask + state : nullptr},
            {x_at(s, p, at.place, at.step), nullptr}};
}

// Where the gates' gradients of a row-step begin; nullptr, which stands for zeros, past the last one.
static inline const float *gates_at(const Backward &b, Index k, Index last)
{
    return k < last ? b.dgates + k * b.dgates_stride : nullptr;
}

static inline Vec load_gates(const float *from, Index gate)
{
    return from ? load(from + gate) : Vec{};
}

// Of the row-steps k and k + 1, one word for each gate.
static inline void pair_gates(const Backward &b, Index k, Index last)
{
    const Format as = {b.factors, b.pairs_low};
    const float *first = gates_at(b, k, last), *second = gates_at(b, k + 1, last);
    float *to = b.pairs + k / 2 * b.pairs_stride;
    const Index gates = b.blocks * BLOCK_SUMS;
    for (Index n = 0; n < gates; n += VL) store_pairs(as, to + n, load_gates(first, n), load_gates(second, n));
}

// The same for AMX, which reads the left factor by rows: the words of a gate lie side by side. A step at a time.
static void transpose_gates(const Backward &b, Index k, Index last)
{
    for (Index part = 0; part < parts_of(b.factors); ++part)
        for (Index gate = 0; gate < b.blocks * BLOCK_SUMS; gate += VL) {
            Vec square[VL];
            for (Index n = 0; n < VL; ++n) {
                const Vec first = load_gates(gates_at(b, k + 2 * n, last), gate);
                const Vec second = load_gates(gates_at(b, k + 2 * n + 1, last), gate);
                square[n] = part ? paired(rest(first), rest(second)) : paired(first, second);
            }
            transpose(square);
            float *to = b.pairs + part * b.pairs_low + gate * b.pairs_stride + k / 2;
            for (Index n = 0; n < VL; ++n) store(to + n * b.pairs_stride, square[n]);
        }
}

// h and x of the row-steps first..last side by side.
static void gather_entered(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    Walk at = walk_to(b, chunk, first);
    for (Index k = first; k < last; ++k, walk_on(b, at)) {
        const Entered row = entered_at(b, at);
        copy_columns(b.columns, k, row.h, h_width(b.p));
        copy_columns(b.columns + b.state_vectors, k, row.x, inputs(b.p));
    }
}

// The same where two row-steps make a row of words; as many as make whole steps, those past the last one zeros.
static void gather_pairs(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    const Index end = first + 2 * words(b.factors, last - first);
    Walk at = walk_to(b, chunk, first);
    const auto next = [&](Index k) {
        if (k >= last) return Entered{};
        const Entered row = entered_at(b, at);
        walk_on(b, at);
        return row;
    };
    for (Index k = first; k < end; k += 2) {
        const Entered row = next(k), after = next(k + 1);
        pair_columns(b.factors, b.columns, k / 2, row.h, after.h, h_width(b.p));
        pair_columns(b.factors, b.columns + b.state_vectors, k / 2, row.x, after.x, inputs(b.p));
        if (!by_amx(b.factors)) pair_gates(b, k, last);
    }
    for (Index k = first; by_amx(b.factors) && k < end; k += values_in_step(b.factors)) transpose_gates(b, k, last);
}

static void input_gradient(const Backward &b, BackwardWorker &own, const Chunk &chunk, Index first, Index last)
{
    const holdfast_lstm *p = b.p;
    const Index rows = last - first, tiles = pieces(rows, b.tile_rows), stride = b.rounded_stride;
    const float *dgates = b.factors == FLOATS ? b.dinput : b.rounded;
    for (Index panel = 0; panel < b.input.count; ++panel) {
        const Index width = b.input.width(panel), column = b.input.first(panel) * VL;
        const size_t bytes = sizeof(float) * static_cast<size_t>(least_index(width * VL, p->features - column));
        Walk at = rows > 0 ? walk_to(b, chunk, first) : Walk{0, 0};
        for (Index t = 0; t < tiles; ++t) {
            const Index k = first + border(rows, tiles, t), count = first + border(rows, tiles, t + 1) - k;
            multiply(b.factors, BY_ROWS, count, width,
                     {b.input.depth, dgates + k * stride, stride, b.input.at(panel), width * VL, b.zeros, 0, own.tile,
                      width * VL, nullptr, 0},
                     {b.rounded_low, b.input.low(panel)});
            for (Index m = 0; m < count; ++m, walk_on(b, at)) {
                const Index dx_at = row_step_at(b.schedule, p, at.place, at.step, b.g->dx_step, b.g->dx_row);
                memcpy(b.g->dx + dx_at + column, own.tile + m * width * VL, bytes);
            }
        }
    }
}

// Where x holds ready sums its gradient is theirs.
static void ready_gradient(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    const holdfast_lstm *p = b.p;
    Walk at = walk_to(b, chunk, first);
    for (Index k = first; k < last; ++k, walk_on(b, at)) {
        float *dx = b.g->dx + row_step_at(b.schedule, p, at.place, at.step, b.g->dx_step, b.g->dx_row);
        for (Index v = 0; v < b.blocks * GATES; ++v) {
            const Index unit = v / GATES * VL;
            store_part(dx + v % GATES * p->units + unit, load(b.dgates + k * b.dgates_stride + v * VL),
                       least_index(VL, p->units - unit));
        }
    }
}

// Columns column..column+count of row k of the weight gradient, to their places in torch's order.
static void hand_out_row(const Backward &b, Index k, Index column, Index count, const float *from)
{
    const holdfast_lstm *p = b.p;
    const Index row = weight_row(k, p->units);
    if (row < 0) return;
    const Index outputs = least_index(column + count, h_width(p)) - column;
    if (b.g->dw_recurrent && outputs > 0)
        memcpy(b.g->dw_recurrent + row * h_width(p) + column, from, sizeof(float) * static_cast<size_t>(outputs));
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
    const Index tiles = pieces(last - first, b.tile_rows), width = b.dweights.width(panel), stride = width * VL;
    const bool of_state = b.dweights.first(panel) < b.state_vectors, lying = by_amx(b.factors);
    const float *dgates = of_state || b.factors != FLOATS ? b.pairs : b.dinput;
    const Index depth = words(b.factors, chunk.rows);
    for (Index t = 0; t < tiles; ++t) {
        const Index gate = first + border(last - first, tiles, t);
        const Index count = first + border(last - first, tiles, t + 1) - gate;
        float *sums = b.dweights.at(panel) + gate * stride;
        // Wide layers keep these sums in the third-level cache: the next tile's are fetched while this one works.
        const float *ahead = chunk.fresh ? nullptr : sums + count * stride;
        multiply(b.factors, lying ? BY_ROWS : BY_COLUMNS, count, width,
                 {depth, dgates + (lying ? gate * b.pairs_stride : gate), b.pairs_stride, b.entered.at(panel), stride,
                  chunk.fresh ? b.zeros : sums, chunk.fresh ? 0 : stride, chunk.first ? sums : own.tile, stride, ahead,
                  ahead ? pieces(b.tile_rows * stride, depth) : 0},
                 {b.pairs_low, b.entered.low(panel)});
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
            for (Index n = 0; n < GATES; ++n) sum[n] += load(b.dsums + k * b.dgates_stride + gate + n * VL);
        for (Index n = 0; n < GATES; ++n) store(b.dbias + gate + n * VL, sum[n]);
        for (Index k = gate; !chunk.first && k < gate + BLOCK_SUMS; ++k)
            if (weight_row(k, b.p->units) >= 0) b.g->dbias[weight_row(k, b.p->units)] = b.dbias[k];
    }
}

// dpi = sum of the gradient of i's sum times c', and so on; for o times the fresh c, which zoneout did not keep.
static void peephole_gradient(const Backward &b, const Chunk &chunk, Index first_block, Index last_block)
{
    const holdfast_lstm *p = b.p;
    for (Index block = first_block; block < last_block; ++block) {
        float *sums = b.dpeephole + block * 3 * VL;
        Vec sum[3];
        for (Index n = 0; n < 3; ++n) sum[n] = chunk.fresh ? Vec{} : load(sums + n * VL);
        Walk at = walk_to(b, chunk, 0);
        for (Index k = 0; k < chunk.rows; ++k, walk_on(b, at)) {
            const float *kept = kept_at(b.schedule, p, at.step, at.place, block);
            const float *d = b.dgates + k * b.dgates_stride + block * BLOCK_SUMS;
            const Vec before = load(at.step ? kept_at(b.schedule, p, at.step - 1, at.place, block) + 4 * VL
                                            : b.c0 + at.place * b.state_stride + block * VL);
            sum[0] = fma(load(d), before, sum[0]);
            sum[1] = fma(load(d + VL), before, sum[1]);
            sum[2] = fma(load(d + 3 * VL), fma(load(kept + VL), before, load(kept) * load(kept + 2 * VL)), sum[2]);
        }
        const Index present = least_index(VL, p->units - block * VL);
        for (Index n = 0; n < 3; ++n) {
            store(sums + n * VL, sum[n]);
            if (!chunk.first) store_part(b.g->dpeephole + n * p->units + block * VL, sum[n], present);
        }
    }
}

// Those of a normalised cell's gains and bias.
static void norm_gradients(const Backward &b, const Chunk &chunk, Index first_block, Index last_block)
{
    const holdfast_lstm *p = b.p;
    for (Index block = first_block; block < last_block; ++block) {
        const Index present = least_index(VL, p->units - block * VL), unit = block * VL;
        float *sums = b.dnorms + block * NORMS * VL;
        Vec sum[NORMS] = {};
        Walk at = walk_to(b, chunk, 0);
        for (Index k = 0; k < chunk.rows; ++k, walk_on(b, at)) {
            const float *kept = kept_at(b.schedule, p, at.step, at.place, block);
            const float *dsums = b.dsums + k * b.dgates_stride + block * BLOCK_SUMS;
            const Vec dshown = load(b.dshown + k * b.state_stride + unit);
            for (Index n = 0; n < GATES; ++n) {
                sum[n] = fma(load(dsums + n * VL), load(kept + (10 + n) * VL), sum[n]);
                sum[GATES + n] = fma(load(dsums + n * VL), load(kept + (5 + n) * VL), sum[GATES + n]);
            }
            sum[2 * GATES] = fma(dshown, load(kept + 9 * VL), sum[2 * GATES]);
            sum[2 * GATES + 1] += dshown;
        }
        for (Index n = 0; n < NORMS; ++n) {
            if (!chunk.fresh) sum[n] += load(sums + n * VL); // chunk by chunk, which rounds less than row by row
            store(sums + n * VL, sum[n]);
        }
        if (chunk.first) continue;
        for (Index n = 0; n < GATES; ++n) {
            store_part(b.g->dgain_x + n * p->units + unit, sum[n], present);
            store_part(b.g->dgain_h + n * p->units + unit, sum[GATES + n], present);
        }
        store_part(b.g->dgain_c + unit, sum[2 * GATES], present);
        store_part(b.g->dbias_c + unit, sum[2 * GATES + 1], present);
    }
}

// dP = dh^T shown, outputs first..last.
static void projection_gradient(const Backward &b, const Chunk &chunk, Index first, Index last)
{
    const ProjectionBackward &q = b.projection;
    const Index tiles = pieces(last - first, TILE_ROWS), stride = q.shown_stride;
    for (Index panel = 0; panel < q.weights.count; ++panel)
        for (Index t = 0; t < tiles; ++t) {
            const Index column = q.weights.first(panel) * VL, width = q.weights.width(panel);
            const Index output = first + border(last - first, tiles, t);
            const Index count = first + border(last - first, tiles, t + 1) - output;
            float *sums = q.dweights + output * stride + column;
            tile_of[FLOATS][BY_COLUMNS][count - 1][width - 1](
                {chunk.rows, q.dh + output, b.dh_stride, q.shown + column, stride, chunk.fresh ? b.zeros : sums,
                 chunk.fresh ? 0 : stride, sums, stride, nullptr, 0});
        }
    const size_t row = static_cast<size_t>(b.p->units) * sizeof(float);
    for (Index n = first; !chunk.first && n < last; ++n)
        memcpy(b.g->dprojection + n * b.p->units, q.dweights + n * stride, row);
}

#endif

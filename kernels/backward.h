// backward.h: the gradients of one layer.
//
// Time is walked backwards in chunks of some hundred row-steps. Within a chunk the recurrence runs step by step and
// leaves the gradients of the gates in a buffer that stays in the cache; then dx and the weight gradients are made from
// it with large products, each worker taking its own part of the result. Every sum over rows and steps runs in one
// fixed order.
#ifndef HOLDFAST_BACKWARD_H
#define HOLDFAST_BACKWARD_H

#include "weight_gradients.h"

// The whole gradient of h: what R gave back, through the mask, what passed by R, and dy where it is given.
static void assemble(const Backward &b, const BackwardShare &share, Index place, const float *dy, float *to)
{
    const Index row = b.schedule.row[place], width = h_width(b.p);
    const float *mask = b.p->cell->h_mask;
    for (Index v = share.first_vector; v < share.last_vector; ++v) {
        const Index at = place * b.dh_stride + v * VL, present = least_index(VL, width - v * VL);
        Vec dh = load(b.dh + at);
        if (mask) dh *= load_part(mask + row * width + v * VL, present);
        if (b.variant.carry) {
            dh += load(b.variant.carry + at);
            store(b.variant.carry + at, Vec{});
        }
        if (dy) dh += load_part(dy + v * VL, present);
        store(to + v * VL, dh);
    }
}

static void assemble_step(const Backward &b, const BackwardShare &share, Index step, float *rows)
{
    for (Index place = share.first_place; place < least_index(share.last_place, b.schedule.active[step]); ++place) {
        const Index at = row_step_at(b.schedule, b.p, place, step, b.g->dy_step, b.g->dy_row);
        assemble(b, share, place, b.g->dy ? b.g->dy + at : nullptr, rows + place * b.dh_stride);
    }
}

// `k`: the step's first row-step in its chunk. Of a variant dh has been assembled already.
static void gates_of_step(const Backward &b, const BackwardShare &share, Index step, Index k)
{
    const holdfast_lstm *p = b.p;
    const Schedule &s = b.schedule;
    const Index first = share.first_block, blocks = share.last_block - first, unit = first * VL;
    const Index present_in_last = least_index(VL, p->units - (share.last_block - 1) * VL);
    const bool projected = projects(p);
    Variant variant = b.variant;
    for (Index place = share.first_place; place < least_index(share.last_place, s.active[step]); ++place) {
        const Index state = place * b.state_stride + unit;
        const Index dy_at = row_step_at(s, p, place, step, b.g->dy_step, b.g->dy_row) + unit;
        const float *before = step ? kept_at(s, p, step - 1, place, first) + 4 * VL : nullptr;
        if (b.dshown) {
            variant.dsums = b.dsums + (k + place) * b.dgates_stride + first * BLOCK_SUMS;
            variant.dinput = b.dinput + (k + place) * b.dgates_stride + first * BLOCK_SUMS;
            variant.dshown = b.dshown + (k + place) * b.state_stride;
            variant.norms = norms_at(s, p, step, place);
        }
        if (projected) variant.projected = b.projection.shown + (k + place) * b.projection.shown_stride + unit;
        b.cells({kept_at(s, p, step, place, first), before ? before : b.c0 + state,
                 before ? kept_per_unit(p) * VL : Index{VL}, before ? before + VL : variant.n0 + state,
                 y_at(s, p, place, step) + unit, b.g->dy ? b.g->dy + dy_at : nullptr,
                 projected ? b.projection.dshown + state : b.dh + place * b.dh_stride + unit, b.dc + state,
                 b.dgates + (k + place) * b.dgates_stride + first * BLOCK_SUMS, &variant, unit, step, s.row[place],
                 state},
                blocks, present_in_last);
        const Index gates = (k + place) * b.dgates_stride + first * BLOCK_SUMS;
        if (b.factors != FLOATS)
            store_factors({b.factors, b.rounded_low},
                          b.rounded + (k + place) * b.rounded_stride + word_at(b.factors, first * BLOCK_SUMS),
                          b.dgates + gates, blocks * BLOCK_SUMS);
    }
}

// The gradient of what the projection multiplied, from that of h.
static void unproject(const Backward &b, const BackwardShare &share, Index step, Index k)
{
    const ProjectionBackward &q = b.projection;
    const Index rows = least_index(share.last_place, b.schedule.active[step]) - share.first_place;
    const Index tiles = pieces(largest_index(rows, 0), TILE_ROWS);
    for (Index panel = share.first_panel; panel < share.last_panel; ++panel) {
        const Index width = q.weights.width(panel);
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const Index place = share.first_place + first;
            float *dshown = q.dshown + place * q.shown_stride + q.weights.first(panel) * VL;
            tile_of[FLOATS][BY_ROWS][count - 1][width - 1](
                {q.weights.depth, q.dh + (k + place) * b.dh_stride, b.dh_stride, q.weights.at(panel), width * VL,
                 b.zeros, 0, dshown, q.shown_stride, nullptr, 0});
        }
    }
}

// dh of the step before: the gates' gradients times the recurrent weights.
static void state_of_step(const Backward &b, const BackwardShare &share, Index step, Index k)
{
    const Index first_panel = share.first_state_panel, last_panel = share.last_state_panel;
    const float *dgates = b.rounded + k * b.rounded_stride;
    const Index rows = least_index(share.last_place, b.schedule.active[step]) - share.first_place;
    if (rows <= 0) return;
    const Index tiles = pieces(rows, b.tile_rows);
    // What the gates of the step before will read is fetched meanwhile: it was written long ago.
    const float *ahead = step ? kept_at(b.schedule, b.p, step - 1, share.first_place, 0) : nullptr;
    const float *ahead_end = ahead + rows * b.blocks * kept_per_unit(b.p) * VL;
    for (Index i = first_panel; i < last_panel; ++i) {
        const Index panel = step & 1 ? first_panel + last_panel - 1 - i : i, width = b.recurrent.width(panel);
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const Index place = share.first_place + first;
            float *dh = b.dh + place * b.dh_stride + b.recurrent.first(panel) * VL;
            multiply(b.factors, BY_ROWS, count, width,
                     {b.recurrent.depth, dgates + place * b.rounded_stride, b.rounded_stride, b.recurrent.at(panel),
                      width * VL, b.zeros, 0, dh, b.dh_stride, ahead, ahead ? 16 : 0},
                     {b.rounded_low, b.recurrent.low(panel)});
            if (ahead && (ahead += b.recurrent.depth * 16) >= ahead_end) ahead = nullptr;
        }
    }
}

// Without a single step there is no last chunk to hand out the sums.
static void hand_out_zeros(const Backward &b)
{
    const size_t units = static_cast<size_t>(b.p->units), unit = sizeof(float), rows = GATES * units * unit;
    const size_t outputs = static_cast<size_t>(h_width(b.p));
    if (b.g->dw_recurrent) memset(b.g->dw_recurrent, 0, rows * outputs);
    if (b.g->dw_input) memset(b.g->dw_input, 0, rows * static_cast<size_t>(b.p->features));
    if (b.g->dbias) memset(b.g->dbias, 0, rows);
    if (b.dpeephole && b.g->dpeephole) memset(b.g->dpeephole, 0, 3 * units * unit);
    if (b.dnorms) {
        memset(b.g->dgain_x, 0, rows);
        memset(b.g->dgain_h, 0, rows);
        memset(b.g->dgain_c, 0, units * unit);
        memset(b.g->dbias_c, 0, units * unit);
    }
    if (projects(b.p) && b.g->dprojection) memset(b.g->dprojection, 0, outputs * units * unit);
}

static void hand_out_states(const Backward &b, const BackwardShare &share)
{
    const holdfast_lstm *p = b.p;
    const Index states = p->rows * p->units;
    for (Index place = share.first_place; place < share.last_place; ++place) {
        const Index row = b.schedule.row[place];
        for (Index block = share.first_block; b.g->dc0 && block < share.last_block; ++block) {
            const Index present = least_index(VL, p->units - block * VL);
            const Index to = row * p->units + block * VL, from = place * b.state_stride + block * VL;
            store_part(b.g->dc0 + to, load(b.dc + from), present);
            if (!b.variant.dn) continue;
            store_part(b.g->dc0 + states + to, load(b.variant.dn + from), present);
            // Given c and n, m says how much they weigh; in a row without a step it comes out as it went in.
            const Vec weighed =
                fma(load(b.c0 + from), load(b.dc + from), load(b.variant.n0 + from) * load(b.variant.dn + from));
            const Vec given = b.g->dc_last ? load_part(b.g->dc_last + 2 * states + to, present) : Vec{};
            store_part(b.g->dc0 + 2 * states + to, b.schedule.length[place] ? weighed : given, present);
        }
        float *dh = b.dh + place * b.dh_stride;
        if (p->cell) assemble(b, share, place, nullptr, dh);
        for (Index v = share.first_vector; b.g->dh0 && v < share.last_vector; ++v)
            store_part(b.g->dh0 + row * h_width(p) + v * VL, load(dh + v * VL), least_index(VL, h_width(p) - v * VL));
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
    BackwardShare share;         // of the recurrence
    Index first_gate, last_gate; // of the weight gradients
};

static Duty duty_of(const Backward &b, Index worker, Index workers)
{
    const holdfast_lstm *p = b.p;
    const Panels &r = b.recurrent;
    const Panels &cells = projects(p) ? b.projection.weights : r;
    Duty d = {worker, workers, cut_by_units(p, workers), {}, 0, 0};
    d.share = {0, p->rows, 0, b.blocks, 0, r.count, 0, r.vectors, 0, cells.count};
    if (d.by_units) {
        const Index first = border(cells.count, workers, worker), last = border(cells.count, workers, worker + 1);
        const Index first_state = border(r.count, workers, worker), last_state = border(r.count, workers, worker + 1);
        d.share = {0, p->rows, cells.first(first), cells.first(last), first_state, last_state, r.first(first_state),
                   r.first(last_state), first, last};
    } else {
        d.share.first_place = place_border(b.schedule, p, workers, worker);
        d.share.last_place = place_border(b.schedule, p, workers, worker + 1);
    }
    d.first_gate = border(b.blocks, workers, worker) * BLOCK_SUMS;
    d.last_gate = border(b.blocks, workers, worker + 1) * BLOCK_SUMS;
    return d;
}

static void prepare(const Backward &b, const Duty &d)
{
    const holdfast_lstm *p = b.p;
    for (Index panel = d.worker; panel < b.recurrent.count; panel += d.workers)
        pack_panel(b.factors, b.recurrent, panel, p->w_recurrent, p->units, h_width(p));
    for (Index panel = d.worker; b.g->dx && panel < b.input.count; panel += d.workers)
        pack_panel(b.factors, b.input, panel, p->w_input, p->units, p->features);
    if (projects(p)) pack_columns(b.projection.weights, p->cell->projection, p->units, d.worker, d.workers);
    if (b.variant.peephole && d.worker == 0) pack_peephole(b.variant.peephole, p, 0, b.blocks);
    if (b.variant.gain_h && d.worker == 0) pack_norms(b.variant, 0, b.blocks);
    load_gradients(b, d.share);
}

static void recur(const Backward &b, const Duty &d, const Chunk &chunk)
{
    Index k = 0;
    for (Index step = chunk.last - 1; step >= chunk.first; --step) {
        if (projects(b.p)) {
            assemble_step(b, d.share, step, b.projection.dh + k * b.dh_stride);
            if (d.by_units) wait_for_all(b.barrier, d.workers);
            unproject(b, d.share, step, k);
        } else if (b.p->cell) {
            assemble_step(b, d.share, step, b.dh);
        }
        gates_of_step(b, d.share, step, k);
        if (d.by_units) wait_for_all(b.barrier, d.workers);
        state_of_step(b, d.share, step, k);
        k += b.schedule.active[step];
    }
}

static void backward_chunk(const Backward &b, const Duty &d, const Chunk &chunk)
{
    const holdfast_lstm *p = b.p;
    BackwardWorker &own = b.workers[d.worker];
    const bool want_weights = b.g->dw_input || b.g->dw_recurrent;
    const Index together = values_in_step(b.factors), parts = pieces(chunk.rows, together);
    const Index first_row = border(parts, d.workers, d.worker) * together;
    const Index last_row = least_index(chunk.rows, border(parts, d.workers, d.worker + 1) * together);
    recur(b, d, chunk);
    if (b.factors != FLOATS) wait_for_all(b.barrier, d.workers); // a word's row-steps may be two workers' own
    const auto gather = b.factors == FLOATS ? gather_entered : gather_pairs;
    if (want_weights && first_row < last_row) gather(b, chunk, first_row, last_row);
    wait_for_all(b.barrier, d.workers);
    if (b.dshown) norm_gradients(b, chunk, d.first_gate / BLOCK_SUMS, d.last_gate / BLOCK_SUMS);
    if (b.g->dx && !p->w_input) ready_gradient(b, chunk, first_row, last_row);
    if (b.g->dx) input_gradient(b, own, chunk, first_row, last_row);
    const Index at_once = by_amx(b.factors) ? Index{GATES_AT_ONCE} : d.last_gate - d.first_gate;
    for (Index gate = d.first_gate; want_weights && gate < d.last_gate; gate += at_once)
        for (Index panel = 0; panel < b.dweights.count; ++panel)
            weight_gradient(b, own, chunk, gate, least_index(gate + at_once, d.last_gate), panel);
    if (b.g->dbias) bias_gradient(b, chunk, d.first_gate, d.last_gate);
    if (b.dpeephole && b.g->dpeephole) peephole_gradient(b, chunk, d.first_gate / BLOCK_SUMS, d.last_gate / BLOCK_SUMS);
    if (projects(b.p) && b.g->dprojection)
        projection_gradient(b, chunk, border(h_width(b.p), d.workers, d.worker),
                            border(h_width(b.p), d.workers, d.worker + 1));
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
    leave_tiles();
}

static Outcome backward(const holdfast_lstm *p, const holdfast_lstm_gradients *g)
{
    if (!kept_is_ours(p)) return OTHER_KEPT;
    Backward b = {};
    plan_backward(b, p, static_cast<char *>(p->scratch));
    b.g = g;
    fill_schedule(b.schedule, p);
    *b.barrier = {};
    memset(b.zeros, 0, sizeof(float) * PANEL * VL);
    for (Index panel = 0; panel < b.entered.count; ++panel) {
        const Index first = b.entered.first(panel), width = b.entered.width(panel);
        for (Index v = 0; v < width; ++v)
            b.columns[first + v] = {b.entered.at(panel) + v * VL, width * VL, b.entered.low(panel)};
    }
    run_team(useful_workers(p), backward_worker, &b);
    return DONE;
}

#endif

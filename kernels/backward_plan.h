// backward_plan.h: what a backward pass holds, how the scratch is cut for it, what comes in from after the last step.
#ifndef HOLDFAST_BACKWARD_PLAN_H
#define HOLDFAST_BACKWARD_PLAN_H

#include "normalise.h"
#include "pack.h"
#include "threads.h"

enum : Index {
    CHUNK_ROWS = 512,
    // Of a weight gradient on AMX: their part of the left factor stays in the second-level cache while the panels of the
    // right one pass by; all gates' comes from the third once for every panel, which takes half as long again.
    GATES_AT_ONCE = 256,
    NORMS = 2 * GATES + 2
};

struct BackwardWorker {
    float *tile; // [rows of a tile][PANEL*VL]
};

struct Vector {
    float *at;
    Index stride;
    Index low; // to its low part, of split halves
};

// h = P shown, shown = o * tanh(c).
struct ProjectionBackward {
    Panels weights;  // [panel of units][projected][its units]
    float *dh;       // [chunk_rows], dh_stride apart: the whole gradient of h
    float *shown;    // [chunk_rows], shown_stride apart
    float *dshown;   // [rows], shown_stride apart
    float *dweights; // [projected], shown_stride apart
    Index shown_stride;
};

struct Backward {
    const holdfast_lstm *p;
    const holdfast_lstm_gradients *g;
    Schedule schedule;
    Index blocks;
    Factors factors;         // of products; unless they are floats, panels hold words
    Index tile_rows;         // of the largest tile
    Panels recurrent, input; // the weights, by columns
    Index chunk_rows;        // what the two buffers below hold
    float *dgates;           // [chunk_rows][blocks][4 gates][VL], dgates_stride apart
    Index dgates_stride;
    float *rounded;      // dgates as R and W meet them: the same, or its halves; the low parts of a row follow it
    Index rounded_stride, rounded_low;
    float *pairs;        // dgates as `entered` meets them: the same, or words of two row-steps, for AMX [gate][word]
    Index pairs_stride, pairs_low;
    Index state_vectors; // vectors of h, padded; those of x follow
    Panels entered;      // h before | x by columns: each panel [chunk_rows][its columns]
    Vector *columns;     // [entered.vectors] where each vector of columns stands in it
    Panels dweights;     // the gradient of both weights, in the same panels: [blocks][4 gates][VL][its columns]
    float *dbias;        // [blocks][4 gates][VL]
    float *zeros;        // [PANEL*VL]
    float *dh;           // [rows], dh_stride apart
    Index dh_stride;
    float *dc; // [rows], state_stride apart, as are those of `variant`
    float *c0; // [rows], state_stride apart
    Index state_stride;
    Variant variant;
    BackwardCells cells;
    float *dpeephole; // [blocks][i f o][VL]
    float *dinput;    // like dgates: the gradient of W x; the same but of a normalised cell
    float *dsums;     // like dgates: the gradient of the sums; the same but of a normalised cell
    float *dshown;    // [chunk_rows], state_stride apart: the gradient of gain_c * N(c) + bias_c
    float *dnorms;    // [blocks][gain_x, gain_h of 4 gates each, gain_c, bias_c][VL]
    ProjectionBackward projection;
    BackwardWorker *workers;
    Barrier *barrier;
};

static void plan_variant(Backward &b, Arena &arena)
{
    const holdfast_lstm *p = b.p;
    Variant &v = b.variant;
    v = {};
    v.p = p;
    b.cells = cells_for(p).backward;
    if (h_stands_apart(p)) v.carry = arena.take<float>(p->rows * b.dh_stride);
    if (is_kind(p, HOLDFAST_PEEPHOLE)) {
        v.peephole = arena.take<float>(b.blocks * 3 * VL);
        b.dpeephole = arena.take<float>(b.blocks * 3 * VL);
    }
    if (is_kind(p, HOLDFAST_EXPONENTIAL)) {
        v.dn = arena.take<float>(p->rows * b.state_stride);
        v.n0 = arena.take<float>(p->rows * b.state_stride);
    }
    plan_norms(v, arena);
    b.dinput = b.dsums = b.dgates;
    if (is_kind(p, HOLDFAST_NORMALISED)) {
        b.dinput = arena.take<float>(b.chunk_rows * b.dgates_stride);
        b.dsums = arena.take<float>(b.chunk_rows * b.dgates_stride);
        b.dshown = arena.take<float>(b.chunk_rows * b.state_stride);
        b.dnorms = arena.take<float>(b.blocks * NORMS * VL);
    }
    if (!projects(p)) return;
    ProjectionBackward &q = b.projection;
    q.shown_stride = b.state_stride;
    q.weights = take_panels(arena, p->units, h_width(p));
    q.dh = arena.take<float>(b.chunk_rows * b.dh_stride);
    q.shown = arena.take<float>(b.chunk_rows * q.shown_stride);
    q.dshown = arena.take<float>(p->rows * q.shown_stride);
    q.dweights = arena.take<float>(h_width(p) * q.shown_stride);
}

// The gradients of the gates, and as what they are multiplied.
static void plan_gates(Backward &b, Arena &arena, Index depth)
{
    b.dgates_stride = b.rounded_stride = b.pairs_stride = row_stride(depth);
    b.dgates = b.rounded = b.pairs = arena.take<float>(b.chunk_rows * b.dgates_stride);
    if (b.factors == FLOATS) return;
    const Index parts = parts_of(b.factors), along = words(b.factors, b.chunk_rows);
    b.rounded_low = words(b.factors, depth);
    b.rounded_stride = row_stride(parts * b.rounded_low);
    b.rounded = arena.take<float>(b.chunk_rows * b.rounded_stride);
    if (by_amx(b.factors)) b.pairs_stride = row_stride(along);
    b.pairs_low = by_amx(b.factors) ? depth * b.pairs_stride : along * b.pairs_stride;
    b.pairs = arena.take<float>(parts * b.pairs_low);
}

static Index plan_backward(Backward &b, const holdfast_lstm *p, char *base)
{
    Arena arena = {base, 0};
    b.p = p;
    b.schedule = take_schedule(arena, p);
    b.blocks = blocks_of(p);
    b.factors = factors_of(p);
    b.tile_rows = rows_at_once(b.factors);
    const Index depth = b.blocks * BLOCK_SUMS, in_words = words(b.factors, depth), parts = parts_of(b.factors);
    b.recurrent = take_panels(arena, h_width(p), in_words, 0, parts);
    b.input = take_panels(arena, inputs(p), in_words, 0, parts);
    b.chunk_rows = largest_index(p->rows, least_index(CHUNK_ROWS, p->rows * p->steps));
    plan_gates(b, arena, depth);
    b.state_vectors = b.recurrent.vectors;
    const Index columns = (b.state_vectors + b.input.vectors) * VL;
    // Gradients of R and W are made of the same gates' gradients in one product, unless a norm lies between.
    const Index apart = is_kind(p, HOLDFAST_NORMALISED) ? b.state_vectors : 0;
    b.entered = take_panels(arena, columns, words(b.factors, b.chunk_rows), apart, parts);
    b.columns = arena.take<Vector>(b.entered.vectors);
    b.dweights = take_panels(arena, columns, depth, apart);
    b.dbias = arena.take<float>(depth);
    b.zeros = arena.take<float>(PANEL * VL);
    b.dh_stride = row_stride(b.state_vectors * VL);
    b.dh = arena.take<float>(p->rows * b.dh_stride);
    b.state_stride = row_stride(b.blocks * VL);
    b.dc = arena.take<float>(p->rows * b.state_stride);
    b.c0 = arena.take<float>(p->rows * b.state_stride);
    plan_variant(b, arena);
    b.barrier = arena.take<Barrier>(1);
    const Index workers = useful_workers(p);
    b.workers = arena.take<BackwardWorker>(workers);
    for (Index w = 0; w < workers; ++w) {
        BackwardWorker own = {};
        own.tile = arena.take<float>(b.tile_rows * PANEL * VL);
        if (base) b.workers[w] = own;
    }
    return arena.used;
}

struct BackwardShare {
    Index first_place, last_place;
    Index first_block, last_block;
    Index first_state_panel, last_state_panel; // of R, whose columns are h's
    Index first_vector, last_vector;           // of h: those panels' own
    Index first_panel, last_panel;             // of the projection: those of the blocks
};

// The gradient that comes in from after the last step, and c0, both padded to whole blocks.
static void load_gradients(const Backward &b, const BackwardShare &share)
{
    const holdfast_lstm *p = b.p;
    const auto given = [](const float *from, Index at, Index present) {
        return from ? load_part(from + at, present) : Vec{};
    };
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index place = share.first_place; place < share.last_place; ++place) {
            const Index present = least_index(VL, p->units - block * VL), row = b.schedule.row[place];
            const Index from = row * p->units + block * VL, to = place * b.state_stride + block * VL;
            store(b.dc + to, given(b.g->dc_last, from, present));
            store(b.c0 + to, given(p->c0, from, present));
            if (!b.variant.dn) continue;
            store(b.variant.dn + to, given(b.g->dc_last, from + p->rows * p->units, present));
            store(b.variant.n0 + to, given(p->c0, from + p->rows * p->units, present));
        }
    // What comes in passed by no mask: it waits beside dh where there is one.
    for (Index place = share.first_place; place < share.last_place; ++place)
        for (Index v = share.first_vector; v < share.last_vector; ++v) {
            const Index to = place * b.dh_stride + v * VL, from = b.schedule.row[place] * h_width(p) + v * VL;
            const Vec dh = given(b.g->dh_last, from, least_index(VL, h_width(p) - v * VL));
            store(b.dh + to, b.variant.carry ? Vec{} : dh);
            if (b.variant.carry) store(b.variant.carry + to, dh);
        }
}

#endif

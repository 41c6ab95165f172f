// forward_plan.h: what a forward pass holds, how the scratch is cut for it, how its state comes in and goes out.
#ifndef HOLDFAST_FORWARD_PLAN_H
#define HOLDFAST_FORWARD_PLAN_H

#include "normalise.h"
#include "pack.h"
#include "threads.h"

enum : Index {
    // With this few rows the tile of x is better made over many steps at once than together with that of h.
    HOIST_ROWS = 4,
    HOISTED_ROWS = 192, // row-steps in a chunk of such products; a step has at most MOST_ROWS_BY_UNITS
};

struct ForwardWorker {
    float **y;        // [rows], or of one row [blocks]: see CellRows
    float *sums;      // [rows of a tile][4 gates][VL], or of one row [blocks][4 gates][VL]; normalised both
    float *o;         // [blocks][VL] of a normalised row
    float *x_rows;    // [HOISTED_ROWS][x_words]  a chunk of x, adjacent; of split halves low parts follow each row
    float *x_sums;    // [HOISTED_ROWS][blocks][4 gates][VL]  its products
    Index chunk_step; // first step of the chunk
    Index chunk_steps;
};

struct Forward {
    const holdfast_lstm *p;
    Schedule schedule;
    Index blocks;
    Format format;          // of `input`; unless they are floats, the strides below count words
    Index tile_rows;        // of the largest tile
    Index x_words, h_words; // of a row
    Index panel;     // floats from block to block in `packed`
    float *packed;   // [blocks][x_words + h_words][4 gates][VL]; of split halves a block's low parts follow it
    float *bias;     // [blocks][4 gates][VL]
    float *zeros;    // the same of a normalised cell
    float *input[2]; // [rows] x | h, input_stride apart; steps take turns
    Index input_stride;
    Index h_column; // where h begins: on a cache line
    float *c;       // [blocks][rows][VL]; of the exponential cell n and m follow
    Variant variant;
    ForwardCells cells;
    Panels projection; // its weights, [panel of outputs][units][its outputs]
    float *shown;      // [rows] o * tanh(c), shown_stride apart: what the projection multiplies
    Index shown_stride;
    ForwardWorker *workers;
    Barrier *barrier;
};

static void plan_cells(Forward &f, Arena &arena)
{
    const holdfast_lstm *p = f.p;
    const Index state = f.blocks * p->rows * VL;
    f.cells = cells_for(p).forward;
    f.c = arena.take<float>(is_kind(p, HOLDFAST_EXPONENTIAL) ? 3 * state : state);
    f.variant = {};
    f.variant.p = p;
    f.variant.c = f.c;
    f.variant.memory_stride = state;
    if (h_stands_apart(p)) f.variant.h = arena.take<float>(pieces(h_width(p), VL) * VL * p->rows);
    if (is_kind(p, HOLDFAST_PEEPHOLE)) f.variant.peephole = arena.take<float>(f.blocks * 3 * VL);
    plan_norms(f.variant, arena);
    f.zeros = is_kind(p, HOLDFAST_NORMALISED) ? arena.take<float>(f.blocks * BLOCK_SUMS) : nullptr;
    f.shown_stride = row_stride(f.blocks * VL);
    f.projection = {};
    f.shown = nullptr;
    if (!projects(p)) return;
    f.projection = take_panels(arena, h_width(p), p->units);
    f.shown = arena.take<float>(p->rows * f.shown_stride);
}

static Index plan_forward(Forward &f, const holdfast_lstm *p, char *base)
{
    Arena arena = {base, 0};
    f.p = p;
    f.schedule = take_schedule(arena, p);
    f.blocks = blocks_of(p);
    const Factors factors = factors_of(p);
    const Index parts = parts_of(factors);
    f.tile_rows = rows_at_once(factors);
    f.x_words = words(factors, inputs(p));
    f.h_words = words(factors, h_width(p));
    f.panel = parts * (f.x_words + f.h_words) * BLOCK_SUMS;
    f.packed = arena.take<float>(f.blocks * f.panel);
    f.bias = arena.take<float>(f.blocks * BLOCK_SUMS);
    f.h_column = round_up(f.x_words, 16);
    f.format = {factors, f.h_column + words(factors, round_up(h_width(p), VL))};
    f.input_stride = row_stride(parts * f.format.low);
    for (float *&input : f.input) input = arena.take<float>(p->rows * f.input_stride);
    plan_cells(f, arena);
    f.barrier = arena.take<Barrier>(1);
    const Index workers = useful_workers(p);
    f.workers = arena.take<ForwardWorker>(workers);
    const bool normalised = is_kind(p, HOLDFAST_NORMALISED);
    const Index most_hoisted = normalised ? largest_index(HOISTED_ROWS, p->rows) : Index{HOISTED_ROWS};
    const Index hoisted = normalised || (p->steps > 1 && p->w_input) ? most_hoisted : 0;
    const Index sums_rows = normalised ? TILE_ROWS * f.blocks : largest_index(f.tile_rows, f.blocks);
    for (Index w = 0; w < workers; ++w) {
        ForwardWorker own = {};
        own.y = arena.take<float *>(largest_index(p->rows, f.blocks));
        own.sums = arena.take<float>(sums_rows * BLOCK_SUMS);
        own.o = arena.take<float>(f.blocks * VL);
        own.x_rows = arena.take<float>(hoisted * parts * f.x_words);
        own.x_sums = arena.take<float>(hoisted * f.blocks * BLOCK_SUMS);
        if (base) f.workers[w] = own;
    }
    return arena.used;
}

static inline bool too_short_to_pack(const holdfast_lstm *p)
{
    return p->steps == 1 && p->rows <= 2 && p->w_input && !is_kind(p, HOLDFAST_NORMALISED);
}

// From a word of `packed` to its low part.
static inline Index packed_low(const Forward &f)
{
    return (f.x_words + f.h_words) * BLOCK_SUMS;
}

static void pack_share(const Forward &f, Index first, Index last)
{
    const holdfast_lstm *p = f.p;
    const Format as = {f.format.factors, packed_low(f)};
    for (Index block = first; block < last; ++block) {
        float *panel = f.packed + block * f.panel;
        if (!too_short_to_pack(p)) {
            if (p->w_input) pack_block(as, panel, p->w_input, p->units, p->features, block);
            pack_block(as, panel + f.x_words * BLOCK_SUMS, p->w_recurrent, p->units, h_width(p), block);
        }
        for (Index k = block * BLOCK_SUMS; k < (block + 1) * BLOCK_SUMS; ++k) {
            const Index row = weight_row(k, p->units);
            f.bias[k] = p->bias && row >= 0 ? p->bias[row] : 0.0f;
        }
    }
    if (f.variant.peephole) pack_peephole(f.variant.peephole, p, first, last);
    if (!f.zeros) return;
    pack_norms(f.variant, first, last);
    memset(f.zeros + first * BLOCK_SUMS, 0, sizeof(float) * static_cast<size_t>((last - first) * BLOCK_SUMS));
}

// h0 of VL columns, as R is to see it, and proper where that differs.
static void load_h(const Forward &f, Index place, Index column, Index present)
{
    const holdfast_lstm *p = f.p;
    const Index at = f.schedule.row[place] * h_width(p) + column;
    const Vec h = p->h0 ? load_part(p->h0 + at, present) : Vec{};
    const float *mask = p->cell ? p->cell->h_mask : nullptr;
    store_factor(f.format, f.input[0] + place * f.input_stride + f.h_column, column,
                 mask ? h * load_part(mask + at, present) : h, present);
    if (f.variant.h) store(f.variant.h + (column / VL * p->rows + place) * VL, h);
}

// What stands between the last block of h and the end of its words, and is multiplied by zeros.
static void clear_words(const Forward &f, Index place)
{
    const Index first = word_at(f.format.factors, f.blocks * VL);
    for (float *input : f.input)
        for (Index part = 0; part < parts_of(f.format.factors); ++part)
            for (Index k = first; k < f.h_words; ++k)
                input[place * f.input_stride + part * f.format.low + f.h_column + k] = 0.0f;
}

static void load_state(const Forward &f, const Share &share)
{
    const holdfast_lstm *p = f.p;
    for (Index place = share.first_place; share.first_block == 0 && place < share.last_place; ++place)
        clear_words(f, place);
    const Index memories = is_kind(p, HOLDFAST_EXPONENTIAL) ? 3 : 1;
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index place = share.first_place; place < share.last_place; ++place) {
            const Index unit = block * VL, present = least_index(VL, p->units - unit);
            const Index at = f.schedule.row[place] * p->units + unit, state = (block * p->rows + place) * VL;
            if (!projects(p)) load_h(f, place, unit, present);
            for (Index n = 0; n < memories; ++n)
                store(f.c + n * f.variant.memory_stride + state,
                      p->c0 ? load_part(p->c0 + n * p->rows * p->units + at, present) : Vec{});
        }
    for (Index place = share.first_place; projects(p) && share.first_block == 0 && place < share.last_place; ++place)
        for (Index unit = 0; unit < h_width(p); unit += VL)
            load_h(f, place, unit, least_index(VL, h_width(p) - unit));
}

static void finish_cells(const Forward &f, const Share &share)
{
    const holdfast_lstm *p = f.p;
    const Index memories = is_kind(p, HOLDFAST_EXPONENTIAL) ? 3 : 1;
    for (Index n = 0; n < memories; ++n)
        for (Index place = share.first_place; place < share.last_place; ++place)
            for (Index block = share.first_block; block < share.last_block; ++block)
                store_part(p->c_last + (n * p->rows + f.schedule.row[place]) * p->units + block * VL,
                           load(f.c + n * f.variant.memory_stride + (block * p->rows + place) * VL),
                           least_index(VL, p->units - block * VL));
}

// The last h, and zeros past each row's length; packed there is nothing past it.
static void finish_outputs(const Forward &f, const Share &share)
{
    const holdfast_lstm *p = f.p;
    const Schedule &s = f.schedule;
    const Index whole = share.first_block == 0 ? h_width(p) : 0; // a projection's outputs are not shared out here
    const Index first = projects(p) ? 0 : share.first_block * VL;
    const Index last = projects(p) ? whole : least_index(share.last_block * VL, p->units);
    if (first >= last) return;
    const size_t bytes = sizeof(float) * static_cast<size_t>(last - first);
    for (Index place = share.first_place; place < share.last_place; ++place) {
        const Index row = s.row[place], length = s.length[place];
        const float *h = f.input[length & 1] + place * f.input_stride + f.h_column;
        if (f.format.factors != FLOATS)
            h = length ? y_at(s, p, place, length - 1) : p->h0 ? p->h0 + row * p->units : nullptr;
        for (Index column = first; column < last; column += VL)
            store_part(p->h_last + row * h_width(p) + column,
                       f.variant.h ? load(f.variant.h + (column / VL * p->rows + place) * VL)
                       : h         ? part(h + column, least_index(VL, last - column))
                                   : Vec{},
                       least_index(VL, last - column));
        for (Index time = length; !p->packed && time < p->steps; ++time)
            memset(p->y + time * p->y_step + row * p->y_row + first, 0, bytes);
    }
}

#endif

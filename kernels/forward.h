// forward.h: one layer through all of its steps.
#ifndef HOLDFAST_FORWARD_H
#define HOLDFAST_FORWARD_H

#include "gates.h"
#include "pack.h"
#include "threads.h"

enum : Index {
    // With this few rows the tile of x is better made over many steps at once than together with that of h.
    HOIST_ROWS = 4,
    HOISTED_ROWS = 48,  // eight tiles deep: the sums of a chunk still fit beside the weights
};

struct ForwardWorker {
    float **y;         // [rows]  see CellRows
    float *sums;       // [TILE_ROWS][4 gates][VL]
    float *x_rows;     // [64][features]       a chunk of x, adjacent
    float *x_sums;     // [64][blocks][4 gates][VL]  its products
    Index chunk_step;  // first step of the chunk
    Index chunk_steps;
};

struct Forward {
    const holdfast_lstm *p;
    Schedule schedule;
    Index blocks;
    float *packed;       // [blocks][features + units][4 gates][VL]
    float *bias;         // [blocks][4 gates][VL]
    float *input[2];     // [rows] x (features) | h (units), input_stride apart; steps take turns
    Index input_stride;
    Index h_column;      // where h begins: on a cache line
    float *c;            // [blocks][rows][VL]
    ForwardWorker *workers;
    Barrier *barrier;
};

static Index plan_forward(Forward &f, const holdfast_lstm *p, char *base)
{
    Arena arena = {base, 0};
    f.p = p;
    f.schedule = take_schedule(arena, p);
    f.blocks = blocks_of(p);
    f.packed = arena.take<float>(f.blocks * (p->features + p->units) * BLOCK_SUMS);
    f.bias = arena.take<float>(f.blocks * BLOCK_SUMS);
    f.h_column = round_up(p->features, 16);
    f.input_stride = row_stride(f.h_column + f.blocks * VL);
    for (float *&input : f.input) input = arena.take<float>(p->rows * f.input_stride);
    f.c = arena.take<float>(f.blocks * p->rows * VL);
    f.barrier = arena.take<Barrier>(1);
    const Index workers = useful_workers(p);
    f.workers = arena.take<ForwardWorker>(workers);
    const Index hoisted = p->steps > 1 ? 64 : 0;
    for (Index w = 0; w < workers; ++w) {
        ForwardWorker own = {};
        own.y = arena.take<float *>(p->rows);
        own.sums = arena.take<float>(TILE_ROWS * BLOCK_SUMS);
        own.x_rows = arena.take<float>(hoisted * p->features);
        own.x_sums = arena.take<float>(hoisted * f.blocks * BLOCK_SUMS);
        if (base) f.workers[w] = own;
    }
    return arena.used;
}

static void pack_share(const Forward &f, Index first, Index last)
{
    const holdfast_lstm *p = f.p;
    for (Index block = first; block < last; ++block) {
        float *panel = f.packed + block * (p->features + p->units) * BLOCK_SUMS;
        pack_block(panel, p->w_input, p->units, p->features, block);
        pack_block(panel + p->features * BLOCK_SUMS, p->w_recurrent, p->units, p->units, block);
        for (Index k = block * BLOCK_SUMS; k < (block + 1) * BLOCK_SUMS; ++k) {
            const Index row = weight_row(k, p->units);
            f.bias[k] = p->bias && row >= 0 ? p->bias[row] : 0.0f;
        }
    }
}

static void load_state(const Forward &f, const Share &share)
{
    const holdfast_lstm *p = f.p;
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index place = share.first_place; place < share.last_place; ++place) {
            const Index unit = block * VL, present = least_index(VL, p->units - unit);
            const Index at = f.schedule.row[place] * p->units + unit;
            store(f.input[0] + place * f.input_stride + f.h_column + unit, p->h0 ? load_part(p->h0 + at, present) : Vec{});
            store(f.c + (block * p->rows + place) * VL, p->c0 ? load_part(p->c0 + at, present) : Vec{});
        }
}

// x of several steps times its weights, for the rows and units of this share.
static void hoist(const Forward &f, ForwardWorker &own, const Share &share, Index step)
{
    const holdfast_lstm *p = f.p;
    own.chunk_step = step;
    own.chunk_steps = largest_index(1, HOISTED_ROWS / (share.last_place - share.first_place));
    Index rows = 0;
    for (Index s = step; s < least_index(p->steps, step + own.chunk_steps); ++s)
        for (Index place = share.first_place; place < least_index(share.last_place, f.schedule.active[s]); ++place)
            memcpy(own.x_rows + rows++ * p->features, x_at(f.schedule, p, place, s), sizeof(float) * p->features);
    const Index tiles = pieces(rows, TILE_ROWS), stride = f.blocks * BLOCK_SUMS;
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            tile_of[BY_ROWS][count - 1][PANEL - 1]({p->features, own.x_rows + first * p->features, p->features,
                                                    f.packed + block * (p->features + p->units) * BLOCK_SUMS, BLOCK_SUMS,
                                                    f.bias + block * BLOCK_SUMS, 0,
                                                    own.x_sums + first * stride + block * BLOCK_SUMS, stride});
        }
}

// The sums of `count` rows of one block, from x and h together.
static inline void sums_of_both(const Forward &f, const ForwardWorker &own, Index step, Index block, Index place, Index count)
{
    const holdfast_lstm *p = f.p;
    const float *input = f.input[step & 1] + place * f.input_stride + f.h_column - p->features;
    const float *panel = f.packed + block * (p->features + p->units) * BLOCK_SUMS;
    tile_of[BY_ROWS][count - 1][PANEL - 1]({p->features + p->units, input, f.input_stride, panel, BLOCK_SUMS,
                                            f.bias + block * BLOCK_SUMS, 0, own.sums, BLOCK_SUMS});
}

// The same sums, bit for bit, where x's part is there already.
static inline void sums_of_state(const Forward &f, const ForwardWorker &own, Index step, Index block, Index place, Index count,
                                 const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const float *input = f.input[step & 1] + place * f.input_stride + f.h_column;
    const float *panel = f.packed + (block * (p->features + p->units) + p->features) * BLOCK_SUMS;
    tile_of[BY_ROWS][count - 1][PANEL - 1]({p->units, input, f.input_stride, panel, BLOCK_SUMS,
                                            x_sums + block * BLOCK_SUMS, f.blocks * BLOCK_SUMS, own.sums, BLOCK_SUMS});
}

static void forward_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Schedule &s = f.schedule;
    const Index rows = least_index(share.last_place, s.active[step]) - share.first_place;
    if (rows <= 0) return;
    for (Index m = 0; m < rows; ++m) {
        const Index place = share.first_place + m;
        own.y[m] = y_at(s, p, place, step);
        if (!x_sums)
            memcpy(f.input[step & 1] + place * f.input_stride + f.h_column - p->features, x_at(s, p, place, step),
                   sizeof(float) * p->features);
    }
    const Index tiles = pieces(rows, TILE_ROWS), blocks = share.last_block - share.first_block;
    for (Index b = 0; b < blocks; ++b) {
        // Back and forth: what the last step read last is still in the cache when this one begins there.
        const Index block = step & 1 ? share.last_block - 1 - b : share.first_block + b;
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const Index place = share.first_place + first;
            if (x_sums) sums_of_state(f, own, step, block, place, count, x_sums + first * f.blocks * BLOCK_SUMS);
            else sums_of_both(f, own, step, block, place, count);
            cells_forward(count, {own.sums, f.c + (block * p->rows + place) * VL,
                                  f.input[(step + 1) & 1] + place * f.input_stride + f.h_column + block * VL, f.input_stride,
                                  own.y + first, block * VL, least_index(VL, p->units - block * VL),
                                  p->kept ? kept_at(s, p, step, block, place) : nullptr});
        }
    }
}

static void all_steps(const Forward &f, ForwardWorker &own, const Share &share, bool by_units, Index workers)
{
    const holdfast_lstm *p = f.p;
    const Index most = share.last_place - share.first_place;
    const bool hoisted = p->steps > 1 && most > 0 && (by_units || most <= HOIST_ROWS);
    const float *x_sums = nullptr;
    own.chunk_step = own.chunk_steps = 0;
    for (Index step = 0; step < p->steps; ++step) {
        const Index rows = least_index(share.last_place, f.schedule.active[step]) - share.first_place;
        if (hoisted && rows > 0) {
            if (step >= own.chunk_step + own.chunk_steps) {
                hoist(f, own, share, step);
                x_sums = own.x_sums;
            }
            forward_step(f, own, share, step, x_sums);
            x_sums += rows * f.blocks * BLOCK_SUMS;
        } else if (rows > 0) {
            forward_step(f, own, share, step, nullptr);
        }
        if (by_units) wait_for_all(f.barrier, workers);
    }
}

// The last states, and zeros past each row's length.
static void finish(const Forward &f, const Share &share)
{
    const holdfast_lstm *p = f.p;
    const Schedule &s = f.schedule;
    const Index first = share.first_block * VL, last = least_index(share.last_block * VL, p->units);
    if (first >= last) return;
    const size_t bytes = sizeof(float) * static_cast<size_t>(last - first);
    for (Index place = share.first_place; place < share.last_place; ++place) {
        const Index row = s.row[place], length = s.length[place];
        for (Index block = share.first_block; block < share.last_block; ++block)
            store_part(p->c_last + row * p->units + block * VL, load(f.c + (block * p->rows + place) * VL),
                       least_index(VL, p->units - block * VL));
        memcpy(p->h_last + row * p->units + first,
               f.input[length & 1] + place * f.input_stride + f.h_column + first, bytes);
        for (Index time = length; time < p->steps; ++time)
            memset(p->y + time * p->y_step + row * p->y_row + first, 0, bytes);
    }
}

static void forward_worker(void *job, Index worker, Index workers)
{
    Forward &f = *static_cast<Forward *>(job);
    const holdfast_lstm *p = f.p;
    const Index first_block = border(f.blocks, workers, worker), last_block = border(f.blocks, workers, worker + 1);
    const bool by_units = cut_by_units(p, workers);
    const Share share = by_units ? Share{0, p->rows, first_block, last_block}
                                 : Share{place_border(f.schedule, p, workers, worker),
                                         place_border(f.schedule, p, workers, worker + 1), 0, f.blocks};
    pack_share(f, first_block, last_block);
    load_state(f, share);
    wait_for_all(f.barrier, workers);
    all_steps(f, f.workers[worker], share, by_units, workers);
    finish(f, share);
}

static Outcome forward(const holdfast_lstm *p)
{
    Forward f;
    plan_forward(f, p, static_cast<char *>(p->scratch));
    fill_schedule(f.schedule, p);
    *f.barrier = {};
    if (p->kept) sign_kept(p);
    run_team(useful_workers(p), forward_worker, &f);
    return DONE;
}

#endif

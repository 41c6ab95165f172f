// forward.h: one layer through all of its steps.
#ifndef HOLDFAST_FORWARD_H
#define HOLDFAST_FORWARD_H

#include "gates.h"
#include "pack.h"
#include "threads.h"

enum : Index {
    // With this few rows the tile of x is better made over many steps at once than together with that of h.
    HOIST_ROWS = 4,
    HOISTED_ROWS = 192, // row-steps in a chunk of such products; a step has at most MOST_ROWS_BY_UNITS
};

struct ForwardWorker {
    float **y;        // [rows], or of one row [blocks]: see CellRows
    float *sums;      // [TILE_ROWS][4 gates][VL], or of one row [blocks][4 gates][VL]
    float *x_rows;    // [HOISTED_ROWS][features]  a chunk of x, adjacent
    float *x_sums;    // [HOISTED_ROWS][blocks][4 gates][VL]  its products
    Index chunk_step; // first step of the chunk
    Index chunk_steps;
};

struct Forward {
    const holdfast_lstm *p;
    Schedule schedule;
    Index blocks;
    float *packed;   // [blocks][features + units][4 gates][VL]
    float *bias;     // [blocks][4 gates][VL]
    float *input[2]; // [rows] x (features) | h (units), input_stride apart; steps take turns
    Index input_stride;
    Index h_column; // where h begins: on a cache line
    float *c;       // [blocks][rows][VL]
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
    const Index hoisted = p->steps > 1 ? Index{HOISTED_ROWS} : 0;
    for (Index w = 0; w < workers; ++w) {
        ForwardWorker own = {};
        own.y = arena.take<float *>(largest_index(p->rows, f.blocks));
        own.sums = arena.take<float>(largest_index(TILE_ROWS, f.blocks) * BLOCK_SUMS);
        own.x_rows = arena.take<float>(hoisted * p->features);
        own.x_sums = arena.take<float>(hoisted * f.blocks * BLOCK_SUMS);
        if (base) f.workers[w] = own;
    }
    return arena.used;
}

static inline bool too_short_to_pack(const holdfast_lstm *p)
{
    return p->steps == 1 && p->rows <= 2;
}

static void pack_share(const Forward &f, Index first, Index last)
{
    const holdfast_lstm *p = f.p;
    for (Index block = first; block < last; ++block) {
        float *panel = f.packed + block * (p->features + p->units) * BLOCK_SUMS;
        if (!too_short_to_pack(p)) {
            pack_block(panel, p->w_input, p->units, p->features, block);
            pack_block(panel + p->features * BLOCK_SUMS, p->w_recurrent, p->units, p->units, block);
        }
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
            store(f.input[0] + place * f.input_stride + f.h_column + unit,
                  p->h0 ? load_part(p->h0 + at, present) : Vec{});
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
            tile_of[BY_ROWS][count - 1][PANEL - 1](
                {p->features, own.x_rows + first * p->features, p->features,
                 f.packed + block * (p->features + p->units) * BLOCK_SUMS, BLOCK_SUMS, f.bias + block * BLOCK_SUMS, 0,
                 own.x_sums + first * stride + block * BLOCK_SUMS, stride, nullptr, 0});
        }
}

// Some rows of one block at one step, and where their sums go: [count][4 gates][VL].
struct BlockRows {
    Index step, block, place, count;
    float *sums;
};

// Without x_sums the tile runs over x and h together; with them x's part is there already. The same bits either way.
static inline void sums_packed(const Forward &f, const BlockRows &at, const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Index done = x_sums ? p->features : 0, all = p->features + p->units;
    const float *input = f.input[at.step & 1] + at.place * f.input_stride + f.h_column - p->features + done;
    const float *panel = f.packed + (at.block * all + done) * BLOCK_SUMS;
    const float *init = (x_sums ? x_sums : f.bias) + at.block * BLOCK_SUMS;
    tile_of[BY_ROWS][at.count - 1][PANEL - 1]({all - done, input, f.input_stride, panel, BLOCK_SUMS, init,
                                               x_sums ? f.blocks * BLOCK_SUMS : 0, at.sums, BLOCK_SUMS, nullptr, 0});
}

// The same sums, bit for bit, straight from the caller's weights: for a single step packing would not pay.
// The four gates take turns: alone, each would wait for its own last multiply-add.
template <Index ROWS> static void sums_unpacked(const Forward &f, const BlockRows &at)
{
    const holdfast_lstm *p = f.p;
    const float *h = f.input[0] + at.place * f.input_stride + f.h_column;
    Vec sums[GATES][ROWS], square[VL];
    for (Index gate = 0; gate < GATES; ++gate)
        for (Vec &sum : sums[gate]) sum = load(f.bias + at.block * BLOCK_SUMS + gate * VL);
    const auto add_column = [&](Vec *sum, const float *a, Vec w) {
        for (Index m = 0; m < ROWS; ++m) sum[m] = fma(splat(a[m * f.input_stride]), w, sum[m]);
    };
    const auto add = [&](const float *weights, Index columns, const float *a) {
        for (Index column = 0; column < columns; column += VL)
            for (Index gate = 0; gate < GATES; ++gate) {
                const Index wide = load_square(square, weights, p->units, columns, at.block, gate, column);
                if (wide == VL) // known, it stays in registers
                    for (Index i = 0; i < VL; ++i) add_column(sums[gate], a + column + i, square[i]);
                else
                    for (Index i = 0; i < wide; ++i) add_column(sums[gate], a + column + i, square[i]);
            }
    };
    add(p->w_input, p->features, h - p->features);
    add(p->w_recurrent, p->units, h);
    for (Index gate = 0; gate < GATES; ++gate)
        for (Index m = 0; m < ROWS; ++m) store(at.sums + m * BLOCK_SUMS + gate * VL, sums[gate][m]);
}

static inline void sums_of(const Forward &f, const BlockRows &at, const float *x_sums)
{
    if (!too_short_to_pack(f.p))
        sums_packed(f, at, x_sums);
    else if (at.count == 1)
        sums_unpacked<1>(f, at);
    else
        sums_unpacked<2>(f, at);
}

// What the cells of these rows read and write, but for y.
static inline CellRows cells_of(const Forward &f, const BlockRows &at, float *const *y)
{
    const holdfast_lstm *p = f.p;
    const Index unit = at.block * VL;
    return {at.sums,
            f.c + (at.block * p->rows + at.place) * VL,
            VL,
            f.input[(at.step + 1) & 1] + at.place * f.input_stride + f.h_column + unit,
            f.input_stride,
            y,
            unit,
            least_index(VL, p->units - unit),
            p->kept ? kept_at(f.schedule, p, at.step, at.place, at.block) : nullptr,
            f.blocks * KEPT_PER_UNIT * VL};
}

// Back and forth: what the last step read last is still in the cache when this one begins there.
static inline Index there_and_back(const Share &share, Index step, Index index)
{
    return step & 1 ? share.last_block - 1 - index : share.first_block + index;
}

static void rows_of_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, Index rows,
                         const float *x_sums)
{
    const Index tiles = pieces(rows, TILE_ROWS), blocks = share.last_block - share.first_block;
    for (Index m = 0; m < rows; ++m) own.y[m] = y_at(f.schedule, f.p, share.first_place + m, step);
    for (Index b = 0; b < blocks; ++b)
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const BlockRows at = {step, there_and_back(share, step, b), share.first_place + first, count, own.sums};
            sums_of(f, at, x_sums ? x_sums + first * f.blocks * BLOCK_SUMS : nullptr);
            cells_forward(count, cells_of(f, at, own.y + first));
        }
}

// A single row: its blocks take the place of rows, so that all activations run together after all sums and not each
// block's in the shadow of its own.
static void row_of_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Index first = share.first_block, blocks = share.last_block - first;
    float *y = y_at(f.schedule, p, share.first_place, step);
    for (Index b = 0; b < blocks; ++b) {
        const Index block = there_and_back(share, step, b);
        own.y[block - first] = y + block * VL;
        sums_of(f, {step, block, share.first_place, 1, own.sums + (block - first) * BLOCK_SUMS}, x_sums);
    }
    const Index whole = least_index(share.last_block, p->units / VL) - first;
    CellRows cell = cells_of(f, {step, first, share.first_place, 1, own.sums}, own.y);
    cell.c_stride = p->rows * VL;
    cell.h_stride = VL;
    cell.kept_stride = KEPT_PER_UNIT * VL;
    cell.unit = 0;
    cell.present = VL;
    cells_forward(whole, cell);
    if (whole < blocks)
        cells_forward(1, cells_of(f, {step, first + whole, share.first_place, 1, own.sums + whole * BLOCK_SUMS}, &y));
}

static void forward_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Index rows = least_index(share.last_place, f.schedule.active[step]) - share.first_place;
    for (Index place = share.first_place; !x_sums && place < share.first_place + rows; ++place)
        memcpy(f.input[step & 1] + place * f.input_stride + f.h_column - p->features, x_at(f.schedule, p, place, step),
               sizeof(float) * static_cast<size_t>(p->features));
    if (rows == 1)
        row_of_step(f, own, share, step, x_sums);
    else
        rows_of_step(f, own, share, step, rows, x_sums);
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

// The last states, and zeros past each row's length; packed there is nothing past it.
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
        memcpy(p->h_last + row * p->units + first, f.input[length & 1] + place * f.input_stride + f.h_column + first,
               bytes);
        for (Index time = length; !p->packed && time < p->steps; ++time)
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

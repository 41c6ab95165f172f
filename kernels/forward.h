// forward.h: one layer through all of its steps.
#ifndef HOLDFAST_FORWARD_H
#define HOLDFAST_FORWARD_H

#include "forward_plan.h"

// x of several steps times its weights, for the rows and units of this share.
static void hoist(const Forward &f, ForwardWorker &own, const Share &share, Index step)
{
    const holdfast_lstm *p = f.p;
    own.chunk_step = step;
    own.chunk_steps = largest_index(1, HOISTED_ROWS / (share.last_place - share.first_place));
    const Format as = {f.format.factors, f.x_words};
    const Index x_stride = parts_of(as.factors) * f.x_words;
    Index rows = 0;
    for (Index s = step; s < least_index(p->steps, step + own.chunk_steps); ++s)
        for (Index place = share.first_place; place < least_index(share.last_place, f.schedule.active[s]); ++place)
            store_factors(as, own.x_rows + rows++ * x_stride, x_at(f.schedule, p, place, s), p->features);
    const Index tiles = pieces(rows, f.tile_rows), stride = f.blocks * BLOCK_SUMS;
    const float *bias = is_kind(p, HOLDFAST_NORMALISED) ? f.zeros : f.bias; // there it comes after the norm
    for (Index block = share.first_block; block < share.last_block; ++block)
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            multiply(as.factors, BY_ROWS, count, PANEL,
                     {f.x_words, own.x_rows + first * x_stride, x_stride, f.packed + block * f.panel, BLOCK_SUMS,
                      bias + block * BLOCK_SUMS, 0, own.x_sums + first * stride + block * BLOCK_SUMS, stride, nullptr,
                      0},
                     {f.x_words, packed_low(f)});
        }
}

// Some rows of one block at one step, and where their sums go: [count][4 gates][VL].
struct BlockRows {
    Index step, block, place, count;
    float *sums;
};

// The sums that the caller has made already, and the bias: where a tile starts.
static inline void load_ready_sums(const Forward &f, const BlockRows &at)
{
    const holdfast_lstm *p = f.p;
    const Index unit = at.block * VL, present = least_index(VL, p->units - unit);
    for (Index m = 0; m < at.count; ++m) {
        const float *x = x_at(f.schedule, p, at.place + m, at.step) + unit;
        for (Index n = 0; n < GATES; ++n)
            store(at.sums + m * BLOCK_SUMS + n * VL,
                  part(x + n * p->units, present) + load(f.bias + at.block * BLOCK_SUMS + n * VL));
    }
}

// Without x_sums the tile runs over x and h together; with them x's part is there already. The same bits either way.
static inline void sums_packed(const Forward &f, const BlockRows &at, const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Index done = x_sums ? f.x_words : 0, all = f.x_words + f.h_words;
    const float *input = f.input[at.step & 1] + at.place * f.input_stride + f.h_column - f.x_words + done;
    const float *panel = f.packed + at.block * f.panel + done * BLOCK_SUMS;
    const float *init = (x_sums ? x_sums : f.bias) + at.block * BLOCK_SUMS;
    Index init_stride = x_sums ? f.blocks * BLOCK_SUMS : 0;
    if (!p->w_input) {
        load_ready_sums(f, at);
        init = at.sums;
        init_stride = BLOCK_SUMS;
    }
    multiply(f.format.factors, BY_ROWS, at.count, PANEL,
             {all - done, input, f.input_stride, panel, BLOCK_SUMS, init, init_stride, at.sums, BLOCK_SUMS, nullptr, 0},
             {f.format.low, packed_low(f)});
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
    add(p->w_recurrent, h_width(p), h);
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
    float *h = f.input[(at.step + 1) & 1] + at.place * f.input_stride + f.h_column;
    return {at.sums,
            f.c + (at.block * p->rows + at.place) * VL,
            VL,
            f.shown ? f.shown + at.place * f.shown_stride + unit : h + word_at(f.format.factors, unit),
            f.shown ? f.shown_stride : f.input_stride,
            f.shown ? nullptr : y,
            unit,
            least_index(VL, p->units - unit),
            p->kept ? kept_at(f.schedule, p, at.step, at.place, at.block) : nullptr,
            f.blocks * kept_per_unit(p) * VL,
            &f.variant,
            at.step,
            f.schedule.row + at.place,
            f.format};
}

// Back and forth: what the last step read last is still in the cache when this one begins there.
static inline Index there_and_back(const Share &share, Index step, Index index)
{
    return step & 1 ? share.last_block - 1 - index : share.first_block + index;
}

static void rows_of_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, Index rows,
                         const float *x_sums)
{
    const Index tiles = pieces(rows, f.tile_rows), blocks = share.last_block - share.first_block;
    for (Index m = 0; m < rows; ++m) own.y[m] = y_at(f.schedule, f.p, share.first_place + m, step);
    for (Index b = 0; b < blocks; ++b)
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const BlockRows at = {step, there_and_back(share, step, b), share.first_place + first, count, own.sums};
            sums_of(f, at, x_sums ? x_sums + first * f.blocks * BLOCK_SUMS : nullptr);
            f.cells(count, cells_of(f, at, own.y + first));
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
    cell.h_stride = word_at(f.format.factors, VL);
    cell.kept_stride = kept_per_unit(p) * VL;
    cell.unit = 0;
    cell.present = VL;
    cells_forward(whole, cell);
    if (whole < blocks)
        cells_forward(1, cells_of(f, {step, first + whole, share.first_place, 1, own.sums + whole * BLOCK_SUMS}, &y));
}

// The products of a row's blocks first, for its mean and deviation run over all of them.
static void normalised_rows_of_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, Index rows,
                                    const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Index tiles = pieces(rows, TILE_ROWS), stride = f.blocks * BLOCK_SUMS;
    for (Index t = 0; t < tiles; ++t) {
        const Index first = share.first_place + border(rows, tiles, t);
        const Index count = share.first_place + border(rows, tiles, t + 1) - first;
        for (Index block = 0; block < f.blocks; ++block)
            tile_of[FLOATS][BY_ROWS][count - 1][PANEL - 1](
                {h_width(p), f.input[step & 1] + first * f.input_stride + f.h_column, f.input_stride,
                 f.packed + block * f.panel + f.x_words * BLOCK_SUMS, BLOCK_SUMS, f.zeros, 0,
                 own.sums + block * BLOCK_SUMS, stride, nullptr, 0});
        for (Index m = 0; m < count; ++m) {
            const Index place = first + m;
            float *c = f.c + place * VL, *y = y_at(f.schedule, p, place, step);
            float *kept = p->kept ? kept_at(f.schedule, p, step, place, 0) : nullptr;
            const NormalisedRow row = {own.sums + m * stride, x_sums + (place - share.first_place) * stride,
                                       kept ? norms_at(f.schedule, p, step, place) : nullptr, own.o, f.blocks,
                                       p->rows * VL};
            normalised_cells(f.variant, row, f.bias, c, kept);
            normalised_outputs(f.variant, row, c, kept);
            for (Index block = 0; block < f.blocks; ++block)
                show(cells_of(f, {step, block, place, 1, nullptr}, &y), 0, load(own.o + block * VL));
        }
    }
}

static void forward_step(const Forward &f, ForwardWorker &own, const Share &share, Index step, const float *x_sums)
{
    const holdfast_lstm *p = f.p;
    const Index rows = least_index(share.last_place, f.schedule.active[step]) - share.first_place;
    for (Index place = share.first_place; !x_sums && place < share.first_place + rows; ++place)
        store_factors(f.format, f.input[step & 1] + place * f.input_stride + f.h_column - f.x_words,
                      x_at(f.schedule, p, place, step), inputs(p));
    if (is_kind(p, HOLDFAST_NORMALISED))
        normalised_rows_of_step(f, own, share, step, rows, x_sums);
    else if (rows == 1 && !p->cell)
        row_of_step(f, own, share, step, x_sums);
    else
        rows_of_step(f, own, share, step, rows, x_sums);
}

// Some columns of a row's projected h: out, and through the mask.
static void show_projected(const Forward &f, Index step, Index place, Index column, Index width, float *h)
{
    const holdfast_lstm *p = f.p;
    const Index row = f.schedule.row[place];
    float *y = y_at(f.schedule, p, place, step);
    for (Index at = column; at < least_index(column + width * VL, h_width(p)); at += VL, h += VL) {
        const Index present = least_index(VL, h_width(p) - at);
        store_part(y + at, load(h), present);
        if (!f.variant.h) continue;
        store(f.variant.h + (at / VL * p->rows + place) * VL, load(h));
        store(h, load(h) * load_part(p->cell->h_mask + row * h_width(p) + at, present));
    }
}

// h = P (o * tanh(c)) for the rows of this share and some panels of outputs.
static void project(const Forward &f, const Share &share, Index step, Index first_panel, Index last_panel)
{
    const holdfast_lstm *p = f.p;
    const Index rows = least_index(share.last_place, f.schedule.active[step]) - share.first_place;
    const Index tiles = pieces(largest_index(rows, 0), TILE_ROWS);
    const Vec zeros[PANEL] = {};
    for (Index panel = first_panel; panel < last_panel; ++panel) {
        const Index width = f.projection.width(panel), column = f.projection.first(panel) * VL;
        for (Index t = 0; t < tiles; ++t) {
            const Index first = border(rows, tiles, t), count = border(rows, tiles, t + 1) - first;
            const Index place = share.first_place + first;
            float *h = f.input[(step + 1) & 1] + place * f.input_stride + f.h_column + column;
            tile_of[FLOATS][BY_ROWS][count - 1][width - 1]({p->units, f.shown + place * f.shown_stride, f.shown_stride,
                                                    f.projection.at(panel), width * VL,
                                                    reinterpret_cast<const float *>(zeros), 0, h, f.input_stride,
                                                    nullptr, 0});
            for (Index m = 0; m < count; ++m) show_projected(f, step, place + m, column, width, h + m * f.input_stride);
        }
    }
}

static void all_steps(const Forward &f, ForwardWorker &own, const Share &share, bool by_units, Index worker,
                      Index workers)
{
    const holdfast_lstm *p = f.p;
    const Index most = share.last_place - share.first_place;
    const bool pays = p->steps > 1 && p->w_input && (by_units || most <= HOIST_ROWS);
    const bool hoisted = most > 0 && (pays || is_kind(p, HOLDFAST_NORMALISED));
    const Index panels = f.projection.count, first_panel = by_units ? border(panels, workers, worker) : 0;
    const Index last_panel = by_units ? border(panels, workers, worker + 1) : panels;
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
        if (!f.shown) continue;
        project(f, share, step, first_panel, last_panel);
        if (by_units) wait_for_all(f.barrier, workers);
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
    if (f.shown) pack_projection(f.projection, p, worker, workers);
    load_state(f, share);
    wait_for_all(f.barrier, workers);
    all_steps(f, f.workers[worker], share, by_units, worker, workers);
    finish_cells(f, share);
    finish_outputs(f, share);
    leave_tiles();
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

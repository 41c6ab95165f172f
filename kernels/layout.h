// layout.h: sizes, the order in which ragged rows are walked, and how the caller's scratch is cut up.
//
// Words used everywhere below:
//   block     VL units; the last one may be partly padding
//   place     a row's position once rows are ordered by falling length: those still running are places 0..active-1
//   step      counts a row's own steps in the order they are computed; time_of() says which step of x and y that is
#ifndef HOLDFAST_LAYOUT_H
#define HOLDFAST_LAYOUT_H

#include "tile.h"

enum : Index { GATES = 4, BLOCK_SUMS = GATES * VL, KEPT_HEADER = 16 };

static inline Index round_up(Index n, Index to)
{
    return (n + to - 1) / to * to;
}
static inline Index least_index(Index a, Index b)
{
    return a < b ? a : b;
}
static inline Index largest_index(Index a, Index b)
{
    return a > b ? a : b;
}

// A row stride of an odd number of cache lines: rows then spread over all sets of the cache, also for powers of two.
static inline Index row_stride(Index floats)
{
    return (round_up(floats, 16) / 16 | 1) * 16;
}

static inline Index blocks_of(const holdfast_lstm *p)
{
    return pieces(p->units, VL);
}

static inline bool is_kind(const holdfast_lstm *p, int64_t kind)
{
    return p->cell && (p->cell->kind & kind);
}

static inline bool projects(const holdfast_lstm *p)
{
    return p->cell && p->cell->projection;
}

// Columns of x that meet weights: none where x holds ready sums.
static inline Index inputs(const holdfast_lstm *p)
{
    return p->w_input ? p->features : 0;
}

// How wide h is, and with it R and y.
static inline Index h_width(const holdfast_lstm *p)
{
    return projects(p) ? p->cell->projected : p->units;
}

// Whether what R multiplies is not all of h: then h is remembered beside it.
static inline bool h_stands_apart(const holdfast_lstm *p)
{
    return p->cell && (p->cell->h_mask || p->cell->zoneout_h > 0.0f);
}

// Vectors kept for the backward pass per block of units: see variants.h for the seven.
static inline Index kept_per_unit(const holdfast_lstm *p)
{
    return is_kind(p, HOLDFAST_EXPONENTIAL) ? 7 : is_kind(p, HOLDFAST_NORMALISED) ? 14 : 5;
}

// Hands out pieces of the scratch; with base = nullptr it only counts.
struct Arena {
    char *base;
    Index used;

    template <class T>
    T *take(Index count)
    {
        T *piece = base ? reinterpret_cast<T *>(base + used) : nullptr;
        used += round_up(count * static_cast<Index>(sizeof(T)), 64);
        return piece;
    }
};

struct Schedule {
    Index *row;    // [rows]     row at each place
    Index *length; // [rows]     its length
    Index *active; // [steps+1]  rows still running at each step
    Index *offset; // [steps+1]  running rows in all steps before
};

static inline Schedule take_schedule(Arena &arena, const holdfast_lstm *p)
{
    return {arena.take<Index>(p->rows), arena.take<Index>(p->rows), arena.take<Index>(p->steps + 1),
            arena.take<Index>(p->steps + 1)};
}

// A stable counting sort by falling length; it yields the numbers of running rows on the way.
static inline void fill_schedule(const Schedule &s, const holdfast_lstm *p)
{
    const Index rows = p->rows, steps = p->steps;
    for (Index step = 0; step <= steps; ++step) s.active[step] = 0;
    for (Index row = 0; row < rows; ++row) ++s.active[p->lengths ? p->lengths[row] : steps];
    Index longer = 0;
    for (Index length = steps; length >= 0; --length) {
        const Index same = s.active[length];
        s.offset[length] = longer; // the first place of this length
        s.active[length] = longer; // rows with more than `length` steps: those that run at step `length`
        longer += same;
    }
    for (Index row = 0; row < rows; ++row) {
        const Index length = p->lengths ? p->lengths[row] : steps;
        const Index place = s.offset[length]++;
        s.row[place] = row;
        s.length[place] = length;
    }
    s.offset[0] = 0;
    for (Index step = 0; step < steps; ++step) s.offset[step + 1] = s.offset[step] + s.active[step];
}

static inline Index total_steps(const holdfast_lstm *p)
{
    if (!p->lengths) return p->steps * p->rows;
    Index total = 0;
    // Sizes are asked for before the lengths have been examined.
    for (Index row = 0; row < p->rows; ++row) total += least_index(largest_index(p->lengths[row], 0), p->steps);
    return total;
}

// First place of a worker's share, so that every worker gets about the same number of row-steps.
static inline Index place_border(const Schedule &s, const holdfast_lstm *p, Index workers, Index worker)
{
    if (worker == workers || !p->lengths) return border(p->rows, workers, worker);
    const Index wanted = border(s.offset[p->steps], workers, worker);
    Index place = 0;
    for (Index before = 0; place < p->rows && before < wanted; ++place) before += s.length[place];
    return place;
}

static inline Index time_of(const Schedule &s, const holdfast_lstm *p, Index place, Index step)
{
    return p->reverse ? s.length[place] - 1 - step : step;
}

// Where a row-step begins in x, y, dx or dy. Packed it has as many before it as run in all steps before, and in its own
// step as its place says.
static inline Index row_step_at(const Schedule &s, const holdfast_lstm *p, Index place, Index step, Index step_stride,
                                Index row_stride)
{
    const Index time = time_of(s, p, place, step);
    if (p->packed) return (s.offset[time] + place) * row_stride;
    return time * step_stride + s.row[place] * row_stride;
}

static inline const float *x_at(const Schedule &s, const holdfast_lstm *p, Index place, Index step)
{
    return p->x + row_step_at(s, p, place, step, p->x_step, p->x_row);
}

static inline float *y_at(const Schedule &s, const holdfast_lstm *p, Index place, Index step)
{
    return p->y + row_step_at(s, p, place, step, p->y_step, p->y_row);
}

// kept: a header, then for every step [place][block][kept_per_unit: i f g o c ...][VL].
static inline Index kept_floats(const holdfast_lstm *p)
{
    const Index norms = is_kind(p, HOLDFAST_NORMALISED) ? 3 : 0;
    return KEPT_HEADER + total_steps(p) * (blocks_of(p) * kept_per_unit(p) * VL + norms);
}

// Of a normalised cell: one over the deviations of R h', of c and of W x, per row-step, behind all else.
static inline float *norms_at(const Schedule &s, const holdfast_lstm *p, Index step, Index place)
{
    const Index all = s.offset[p->steps] * blocks_of(p) * kept_per_unit(p) * VL;
    return p->kept + KEPT_HEADER + all + 3 * (s.offset[step] + place);
}

static inline float *kept_at(const Schedule &s, const holdfast_lstm *p, Index step, Index place, Index block)
{
    const Index before = (s.offset[step] + place) * blocks_of(p) + block;
    return p->kept + KEPT_HEADER + before * kept_per_unit(p) * VL;
}

static inline void sign_kept(const holdfast_lstm *p)
{
    const Index facts[6] = {VL, p->steps, p->rows, p->units, total_steps(p), kept_per_unit(p)};
    for (int i = 0; i < 6; ++i) p->kept[i] = static_cast<float>(facts[i]);
}

static inline bool kept_is_ours(const holdfast_lstm *p)
{
    const Index facts[6] = {VL, p->steps, p->rows, p->units, total_steps(p), kept_per_unit(p)};
    for (int i = 0; i < 6; ++i)
        if (p->kept[i] != static_cast<float>(facts[i])) return false;
    return true;
}

// How the work is cut: which places and which units a worker computes.
struct Share {
    Index first_place, last_place;
    Index first_block, last_block;
};

enum : Index { MOST_ROWS_BY_UNITS = 64, LEAST_BYTES_BY_UNITS = 96 * 1024 };

// Rows are cut where there are enough of them: each worker then runs through all of time alone. A few rows with a large
// state are cut by units, which costs one barrier per step (about 0.4 microseconds) but shares out the weights that the
// cores have to read: some 0.1 MB per worker must be saved for that to pay.
static inline bool cut_by_units(const holdfast_lstm *p, Index workers)
{
    const Index weight_bytes = 4 * GATES * p->units * h_width(p);
    // A normalised row needs all of its units at once.
    return workers > 1 && p->steps > 1 && !is_kind(p, HOLDFAST_NORMALISED) &&
           p->rows < 3 * workers && p->rows <= MOST_ROWS_BY_UNITS &&
           weight_bytes / workers >= LEAST_BYTES_BY_UNITS;
}

static inline Index useful_workers(const holdfast_lstm *p)
{
    // A region costs about a microsecond to enter, and more on a busy machine: below ~4 MFLOP one core does it alone.
    const double flops = 8.0 * static_cast<double>(p->steps * p->rows) * p->units * (inputs(p) + h_width(p));
    if (flops < 4e6 || p->threads < 1) return 1;
    if (cut_by_units(p, p->threads)) return p->threads;
    return least_index(p->threads, largest_index(p->rows, 1));
}

#endif

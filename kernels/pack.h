// pack.h: weights rearranged once per call into the order in which the tiles read them.
#ifndef HOLDFAST_PACK_H
#define HOLDFAST_PACK_H

#include "half.h"

#if defined(__AVX512F__)
#define HOLDFAST_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HOLDFAST_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define HOLDFAST_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HOLDFAST_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define HOLDFAST_LOW 0, 4, 1, 5
#define HOLDFAST_HIGH 2, 6, 3, 7
#endif

// Interleaving the first half of the rows with the second is a perfect shuffle; log2(VL) of them transpose the square.
static inline void transpose(Vec square[VL])
{
    for (Index distance = VL; distance > 1; distance /= 2) {
        Vec next[VL];
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2; ++i) {
            next[2 * i] = __builtin_shufflevector(square[i], square[i + VL / 2], HOLDFAST_LOW);
            next[2 * i + 1] = __builtin_shufflevector(square[i], square[i + VL / 2], HOLDFAST_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i) square[i] = next[i];
    }
}

// Up to VL columns of a gate's rows in one block, as vectors over the block's units; how many there are.
static inline Index load_square(Vec (&square)[VL], const float *weights, Index units, Index columns, Index block,
                                Index gate, Index column)
{
    const Index present = least_index(VL, units - block * VL), wide = least_index(VL, columns - column);
    const float *from = weights + (gate * units + block * VL) * columns + column;
    for (Index i = 0; i < VL; ++i) {
        const float *row = from + i * columns;
        square[i] = i >= present ? Vec{} : wide == VL ? load(row) : load_part(row, wide);
    }
    transpose(square);
    return wide;
}

// One gate's weights for a block of units, from weights [4*units, columns]: calls use(k, w) for every column k in
// rising order, w holding that column for the block's units. Units past the end get zeros.
template <class Use>
static inline void for_each_column(const float *weights, Index units, Index columns, Index block, Index gate, Use use)
{
    for (Index column = 0; column < columns; column += VL) {
        Vec square[VL];
        const Index wide = load_square(square, weights, units, columns, block, gate, column);
        for (Index i = 0; i < wide; ++i) use(column + i, square[i]);
    }
}

// A gate's rows in one block -> to [column, or word of two][VL], to_row apart.
static inline void pack_gate(const Format &as, float *to, Index to_row, const float *weights, Index units,
                             Index columns, Index block, Index gate)
{
    if (as.factors == FLOATS) {
        for_each_column(weights, units, columns, block, gate, [=](Index k, Vec w) { store(to + k * to_row, w); });
        return;
    }
    Vec even = {};
    for_each_column(weights, units, columns, block, gate, [&](Index k, Vec w) {
        if (k & 1) store_pairs(as, to + k / 2 * to_row, even, w);
        even = w;
    });
    if (columns & 1) store_pairs(as, to + columns / 2 * to_row, even, Vec{});
    for (Index k = (columns + 1) / 2; k < words(as.factors, columns); ++k)
        store_pairs(as, to + k * to_row, Vec{}, Vec{});
}

// weights [4*units, columns] -> to [columns, or words of two][4 gates][VL] for the units of one block.
static void pack_block(const Format &as, float *to, const float *weights, Index units, Index columns, Index block)
{
    for (Index gate = 0; gate < GATES; ++gate)
        pack_gate(as, to + gate * VL, BLOCK_SUMS, weights, units, columns, block, gate);
}

// The row of weights that stands at position k of [block][gate][VL], or -1 where k is padding.
static inline Index weight_row(Index k, Index units)
{
    const Index unit = k / BLOCK_SUMS * VL + k % VL;
    return unit < units ? k % BLOCK_SUMS / VL * units + unit : -1;
}

// Backwards the products run over the gates: weights [4*units, columns] are cut into panels of up to PANEL vectors of
// columns, each [k in the order of weight_row()][its columns]; columns and k past the end are zeros.
struct Panels {
    Index vectors; // VL columns each
    Index count;
    Index depth; // in words, where they hold halves
    float *packed;
    Index apart; // so many first vectors share no panel with the rest
    Index parts = 1; // 2: behind a panel stand its low parts

    Index first(Index panel) const
    {
        const Index before = pieces(apart, PANEL);
        if (panel < before) return border(apart, before, panel);
        return apart + border(vectors - apart, count - before, panel - before);
    }
    Index width(Index panel) const { return first(panel + 1) - first(panel); }
    Index low(Index panel) const { return width(panel) * VL * depth; }
    float *at(Index panel) const { return packed + first(panel) * VL * depth * parts; }
};

static inline Panels take_panels(Arena &arena, Index columns, Index depth, Index apart = 0, Index parts = 1)
{
    const Index vectors = pieces(columns, VL), count = pieces(apart, PANEL) + pieces(vectors - apart, PANEL);
    return {vectors, count, depth, arena.take<float>(vectors * VL * depth * parts), apart, parts};
}

static void pack_panel(Factors factors, const Panels &panels, Index panel, const float *weights, Index units,
                       Index columns)
{
    const Index width = panels.width(panel) * VL, first = panels.first(panel) * VL;
    const Index present = least_index(width, columns - first);
    float *to = panels.at(panel);
    const auto weights_at = [=](Index k, Index n) {
        const Index row = weight_row(k, units);
        return row < 0 ? Vec{} : row_part(weights + row * columns + first, n, present);
    };
    const Format as = {factors, panels.low(panel)};
    for (Index k = 0; factors != FLOATS && k < panels.depth; ++k, to += width)
        for (Index n = 0; n < width; n += VL)
            store_pairs(as, to + n, weights_at(2 * k, n), weights_at(2 * k + 1, n));
    for (Index k = 0; factors == FLOATS && k < panels.depth; ++k, to += width) {
        const Index row = weight_row(k, units);
        const Index copied = row < 0 ? 0 : present;
        if (copied) memcpy(to, weights + row * columns + first, sizeof(float) * static_cast<size_t>(copied));
        for (Index n = copied; n < width; ++n) to[n] = 0.0f;
    }
}

// The projection [projected, units], forwards: panels of outputs, each [unit][its outputs].
static void pack_projection(const Panels &panels, const holdfast_lstm *p, Index worker, Index workers)
{
    const Index outputs = p->cell->projected;
    for (Index panel = worker; panel < panels.count; panel += workers)
        for (Index v = 0; v < panels.width(panel); ++v)
            pack_gate({FLOATS, 0}, panels.at(panel) + v * VL, panels.width(panel) * VL, p->cell->projection, outputs,
                      p->units, panels.first(panel) + v, 0);
}

// A matrix of panels.depth rows, as it lies: panels of its columns.
static void pack_columns(const Panels &panels, const float *weights, Index columns, Index worker, Index workers)
{
    for (Index panel = worker; panel < panels.count; panel += workers) {
        const Index width = panels.width(panel), first = panels.first(panel);
        for (Index k = 0; k < panels.depth; ++k)
            for (Index v = 0; v < width; ++v)
                store(panels.at(panel) + (k * width + v) * VL,
                      load_part(weights + k * columns + (first + v) * VL, least_index(VL, columns - (first + v) * VL)));
    }
}

// Rows of a matrix of which the first `present` columns are there.
struct Rows {
    const float *from;
    Index count, apart, present;

    Vec at(Index row, Index column) const
    {
        return row < count ? row_part(from + row * apart, column, present) : Vec{};
    }
};

// Each two of them as one row of words, to_row apart and `wide` long; rows past the last are zeros.
static void pair_rows(const Format &as, float *to, Index to_row, Index wide, const Rows &rows)
{
    const Index depth = words(as.factors, rows.count);
    const Index pairs = rows.count / 2, whole = rows.present / VL * VL; // where neither row nor column is missing
    for (Index k = 0; k < depth; ++k, to += to_row) {
        const float *first = rows.from + 2 * k * rows.apart, *second = first + rows.apart;
        const Index simple = k < pairs ? whole : 0;
        for (Index n = 0; n < simple; n += VL) store_pairs(as, to + n, load(first + n), load(second + n));
        for (Index n = simple; n < wide; n += VL) store_pairs(as, to + n, rows.at(2 * k, n), rows.at(2 * k + 1, n));
    }
}

#endif

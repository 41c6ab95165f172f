// matrix.h: a matrix packed once, and the products of others with it: for loops in Python that multiply by the same
// weights at every step.
#ifndef HOLDFAST_MATRIX_H
#define HOLDFAST_MATRIX_H

#include "pack.h"
#include "product.h"
#include "threads.h"

struct PackedFactor {
    Factors factors;
    Index depth, columns;
    Panels panels; // of columns, each [k, or word of two][its columns]
};

static Index plan_matrix(PackedFactor &m, const holdfast_matrix *p)
{
    Arena arena = {static_cast<char *>(p->memory), 0};
    m.factors = factors_called(p->precision);
    m.depth = p->depth;
    m.columns = p->columns;
    m.panels = take_panels(arena, p->columns, words(m.factors, p->depth), 0, parts_of(m.factors));
    return arena.used;
}

static Index matrix_bytes(const holdfast_matrix *p)
{
    holdfast_matrix nowhere = *p;
    nowhere.memory = nullptr;
    PackedFactor m;
    return plan_matrix(m, &nowhere);
}

static void matrix_pack(const holdfast_matrix *p, const float *from, bool turned)
{
    PackedFactor m;
    plan_matrix(m, p);
    if (!turned && m.factors == FLOATS) return pack_columns(m.panels, from, m.columns, 0, 1);
    for (Index panel = 0; panel < m.panels.count; ++panel) {
        const Index wide = m.panels.width(panel) * VL, column = m.panels.first(panel) * VL;
        const Format as = {m.factors, m.panels.low(panel)};
        float *to = m.panels.at(panel);
        if (!turned)
            pair_rows(as, to, wide, wide,
                      {from + column, m.depth, m.columns, least_index(wide, m.columns - column)});
        for (Index v = 0; turned && v < m.panels.width(panel); ++v)
            pack_gate(as, to + v * VL, wide, from, m.columns, m.depth, m.panels.first(panel) + v, 0);
    }
}

struct PackedWorker {
    float *rows; // [parts][rows][a_row] of the left factor as words
    float *tile; // [tile_rows][PANEL * VL] where a panel reaches past the last column
};

struct PackedProduct {
    const holdfast_product *p;
    PackedFactor matrix;
    Index tile_rows, a_row;
    float *zeros;
    PackedWorker *workers;
};

static Index plan_product(PackedProduct &s, const holdfast_product *p, void *base)
{
    Arena arena = {static_cast<char *>(base), 0};
    s.p = p;
    plan_matrix(s.matrix, p->matrix);
    s.tile_rows = rows_at_once(s.matrix.factors);
    s.a_row = s.matrix.factors == FLOATS ? p->a_row : row_stride(s.matrix.panels.depth);
    s.zeros = arena.take<float>(PANEL * VL);
    const Index workers = largest_index(p->threads, 1);
    s.workers = arena.take<PackedWorker>(workers);
    for (Index n = 0; n < workers; ++n) {
        PackedWorker own = {};
        if (s.matrix.factors != FLOATS) own.rows = arena.take<float>(parts_of(s.matrix.factors) * p->rows * s.a_row);
        own.tile = arena.take<float>(s.tile_rows * PANEL * VL);
        if (base) s.workers[n] = own;
    }
    return arena.used;
}

static Index product_scratch_bytes(const holdfast_product *p)
{
    PackedProduct s;
    return plan_product(s, p, nullptr);
}

// Some rows of the product in one panel.
static void panel_product(const PackedProduct &s, const PackedWorker &own, Index panel, Index row, Index count)
{
    const holdfast_product *p = s.p;
    const Panels &panels = s.matrix.panels;
    const Index wide = panels.width(panel) * VL, column = panels.first(panel) * VL;
    const Index present = least_index(wide, s.matrix.columns - column);
    const size_t bytes = sizeof(float) * static_cast<size_t>(present);
    const float *init = p->init ? p->init + row * p->init_row + column : s.zeros;
    Index init_row = p->init ? p->init_row : 0;
    float *to = p->c + row * p->c_row + column;
    if (present < wide) { // worked on beside the rows, of which it would write past the end
        memset(own.tile, 0, sizeof(float) * static_cast<size_t>(count * wide));
        for (Index m = 0; p->init && m < count; ++m) memcpy(own.tile + m * wide, init + m * init_row, bytes);
        init = own.tile;
        init_row = wide;
    }
    float *sums = present < wide ? own.tile : to;
    const Index apart = present < wide ? wide : p->c_row;
    const float *a = own.rows ? own.rows : p->a;
    multiply(s.matrix.factors, BY_ROWS, count, wide / VL,
             {panels.depth, a + row * s.a_row, s.a_row, panels.at(panel), wide, init, init_row, sums, apart, nullptr, 0},
             {p->rows * s.a_row, panels.low(panel)});
    for (Index m = 0; present < wide && m < count; ++m) memcpy(to + m * p->c_row, own.tile + m * wide, bytes);
}

// Every worker rounds all rows for itself: cheaper than to wait for each other.
static void product_worker(void *job, Index worker, Index workers)
{
    const PackedProduct &s = *static_cast<const PackedProduct *>(job);
    const holdfast_product *p = s.p;
    const PackedWorker &own = s.workers[worker];
    const Format as = {s.matrix.factors, p->rows * s.a_row};
    for (Index m = 0; own.rows && m < p->rows; ++m)
        store_factors(as, own.rows + m * s.a_row, p->a + m * p->a_row, s.matrix.depth);
    const Index count = s.matrix.panels.count, tiles = pieces(p->rows, s.tile_rows);
    for (Index panel = border(count, workers, worker); panel < border(count, workers, worker + 1); ++panel)
        for (Index t = 0; t < tiles; ++t) {
            const Index row = border(p->rows, tiles, t);
            panel_product(s, own, panel, row, border(p->rows, tiles, t + 1) - row);
        }
    leave_tiles();
}

static void product_make(const holdfast_product *p)
{
    PackedProduct s;
    plan_product(s, p, p->scratch);
    for (Index n = 0; n < PANEL * VL; ++n) s.zeros[n] = 0.0f;
    const double flops = 2.0 * static_cast<double>(p->rows) * static_cast<double>(s.matrix.depth * s.matrix.columns);
    const Index threads = least_index(largest_index(p->threads, 1), s.matrix.panels.count);
    run_team(flops < 4e6 ? 1 : threads, product_worker, &s);
}

#endif

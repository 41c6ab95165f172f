// gates.h: the arithmetic of the memory cell itself, one block of units for a few rows, forwards and backwards.
#ifndef HOLDFAST_GATES_H
#define HOLDFAST_GATES_H

#include "half.h"

struct Variant; // see variants.h

struct CellRows {
    float *sums; // [rows][4 gates][VL]  before the activation; overwritten
    float *c;    // [rows], c_stride apart: [VL] in: one step before, out: now
    Index c_stride;
    float *h; // [rows], h_stride apart: what the next step multiplies, or the projection
    Index h_stride;
    float *const *y; // [rows] where each row's output of this step begins
    Index unit;      // the block's first unit
    Index present;   // its units that are no padding
    float *kept;     // [rows], kept_stride apart: [i f g o c][VL]; or nullptr
    Index kept_stride;
    const Variant *variant; // nullptr: the plain cell, which reads `format` only
    Index step;
    const Index *row; // [rows] whose they are
    Format format;    // how h is to be stored
};

// Two short loops instead of one long: the four gates of a row do not wait for each other, but tanh(c) waits for all of
// them, and a processor that holds some hundred instructions in flight then sees several rows at once in either loop.
static inline void cells_forward(Index rows, const CellRows &cell)
{
    for (Index m = 0; m < rows; ++m) {
        float *sums = cell.sums + m * BLOCK_SUMS;
        const Vec i = sigmoid(load(sums));
        const Vec f = sigmoid(load(sums + VL));
        const Vec g = hyperbolic_tangent(load(sums + 2 * VL));
        const Vec o = sigmoid(load(sums + 3 * VL));
        const Vec c = fma(f, load(cell.c + m * cell.c_stride), i * g);
        store(cell.c + m * cell.c_stride, c);
        store(sums, o);
        if (cell.kept) {
            float *kept = cell.kept + m * cell.kept_stride;
            store(kept, i);
            store(kept + VL, f);
            store(kept + 2 * VL, g);
            store(kept + 3 * VL, o);
            store(kept + 4 * VL, c);
        }
    }
    for (Index m = 0; m < rows; ++m) {
        const Vec h = load(cell.sums + m * BLOCK_SUMS) * hyperbolic_tangent(load(cell.c + m * cell.c_stride));
        store_factor(cell.format, cell.h + m * cell.h_stride, 0, h, cell.present);
        if (cell.present == VL)
            store(cell.y[m] + cell.unit, h);
        else
            store_part(cell.y[m] + cell.unit, h, cell.present);
    }
}

// One row, several blocks of it; everything but y and dy is padded to whole blocks.
struct CellGradients {
    const float *kept;     // [blocks][i f g o c][VL]
    const float *c_before; // [blocks], c_stride apart: [VL]
    Index c_stride;
    const float *n_before; // like c_before; of the exponential cell only
    const float *y;  // [units] h of this step
    const float *dy; // [units], or nullptr
    const float *dh; // [blocks][VL] from the step after
    float *dc;       // [blocks][VL] in: from the step after, out: for the step before
    float *dgates;   // [blocks][4 gates][VL] before the activation
    const Variant *variant; // nullptr: the plain cell, which does not read on
    Index unit;             // the first block's first
    Index step, row;
    Index state; // where this row's state begins in the variant's own buffers
};

// With h = o tanh(c), the gradients need tanh(c) only as h / o, which is cheaper than a second tanh. sigmoid() never
// gives less than 2^-126, so there is always something to divide by.
static inline void block_backward(const CellGradients &cell, Index block, Index present)
{
    const Vec one = splat(1.0f);
    const float *kept = cell.kept + block * 5 * VL, *y = cell.y + block * VL;
    const Vec i = load(kept), f = load(kept + VL), g = load(kept + 2 * VL), o = load(kept + 3 * VL);
    const Vec h = present == VL ? load(y) : load_part(y, present);
    Vec dh = load(cell.dh + block * VL);
    if (cell.dy) dh += present == VL ? load(cell.dy + block * VL) : load_part(cell.dy + block * VL, present);
    const Vec tanh_c = divide(h, o);
    const Vec dc = fma(dh, o - h * tanh_c, load(cell.dc + block * VL));
    float *to = cell.dgates + block * BLOCK_SUMS;
    store(to, dc * g * i * (one - i));
    store(to + VL, dc * load(cell.c_before + block * cell.c_stride) * f * (one - f));
    store(to + 2 * VL, dc * i * (one - g * g));
    store(to + 3 * VL, dh * h * (one - o));
    store(cell.dc + block * VL, dc * f);
}

// Padding must stay zero: an Inf in x makes NaN of its sums, and the products run over it.
static inline void clear_padding(float *dgates, Index blocks, Index present_in_last)
{
    float *to = dgates + (blocks - 1) * BLOCK_SUMS;
    for (Index gate = 0; gate < GATES; ++gate)
        for (Index n = present_in_last; n < VL; ++n) to[gate * VL + n] = 0.0f;
}

static inline void cells_backward(const CellGradients &cell, Index blocks, Index present_in_last)
{
    for (Index block = 0; block + 1 < blocks; ++block) block_backward(cell, block, VL);
    if (blocks == 0) return;
    block_backward(cell, blocks - 1, present_in_last);
    clear_padding(cell.dgates, blocks, present_in_last);
}

#endif

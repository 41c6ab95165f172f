// gates.h: the arithmetic of the memory cell itself, one block of units for a few rows, forwards and backwards.
#ifndef HOLDFAST_GATES_H
#define HOLDFAST_GATES_H

#include "layout.h"

struct CellRows {
    float *sums;  // [rows][4 gates][VL]  before the activation; overwritten
    float *c;     // [rows][VL]           in: one step before, out: now
    float *h;     // [rows], h_stride apart: what the next step multiplies
    Index h_stride;
    float *const *y;  // [rows] where each row's output of this step begins
    Index unit;       // the block's first unit
    Index present;    // its units that are no padding
    float *kept;      // [rows][i f g o c][VL], or nullptr
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
        const Vec c = fma(f, load(cell.c + m * VL), i * g);
        store(cell.c + m * VL, c);
        store(sums, o);
        if (cell.kept) {
            float *kept = cell.kept + m * KEPT_PER_UNIT * VL;
            store(kept, i);
            store(kept + VL, f);
            store(kept + 2 * VL, g);
            store(kept + 3 * VL, o);
            store(kept + 4 * VL, c);
        }
    }
    for (Index m = 0; m < rows; ++m) {
        const Vec h = load(cell.sums + m * BLOCK_SUMS) * hyperbolic_tangent(load(cell.c + m * VL));
        store(cell.h + m * cell.h_stride, h);
        if (cell.present == VL) store(cell.y[m] + cell.unit, h);
        else store_part(cell.y[m] + cell.unit, h, cell.present);
    }
}

struct CellGradientRows {
    const float *kept;       // [rows][i f g o c][VL]
    const float *c_before;   // [rows], c_stride apart
    Index c_stride;
    const float *const *y;   // [rows] h of this step
    const float *const *dy;  // [rows], or nullptr
    const float *dh;         // [rows], dh_stride apart: from the step after
    Index dh_stride;
    float *dc;        // [rows][VL]  in: from the step after, out: for the step before
    float *dgates;    // [rows], dgates_stride apart: [4 gates][VL] before the activation
    Index dgates_stride;
    Index unit, present;
};

// With h = o tanh(c):  do/dh and dc/dh need tanh(c) only as h / o, which is cheaper than a second tanh. Where o is so small
// that the quotient is worthless (below 1e-30), so are both gradients.
static inline void cells_backward(Index rows, const CellGradientRows &cell)
{
    const bool whole = cell.present == VL;
    const Vec one = splat(1.0f);
    for (Index m = 0; m < rows; ++m) {
        const float *kept = cell.kept + m * KEPT_PER_UNIT * VL;
        const Vec i = load(kept), f = load(kept + VL), g = load(kept + 2 * VL), o = load(kept + 3 * VL);
        const float *y = cell.y[m] + cell.unit;
        const Vec h = whole ? load(y) : load_part(y, cell.present);
        Vec dh = load(cell.dh + m * cell.dh_stride);
        if (cell.dy) dh += whole ? load(cell.dy[m] + cell.unit) : load_part(cell.dy[m] + cell.unit, cell.present);
        const Vec tanh_c = divide(h, largest(splat(1e-30f), o));
        const Vec dc = fma(dh, o - h * tanh_c, load(cell.dc + m * VL));
        Vec gates[GATES];
        gates[0] = dc * g * i * (one - i);
        gates[1] = dc * load(cell.c_before + m * cell.c_stride) * f * (one - f);
        gates[2] = dc * i * (one - g * g);
        gates[3] = dh * h * (one - o);
        store(cell.dc + m * VL, dc * f);
        float *to = cell.dgates + m * cell.dgates_stride;
        for (Index gate = 0; gate < GATES; ++gate) {
            store(to + gate * VL, gates[gate]);
            // Padding must stay zero: an Inf in x makes NaN of its sums, and the products run over it.
            for (Index n = cell.present; n < VL; ++n) to[gate * VL + n] = 0.0f;
        }
    }
}

#endif

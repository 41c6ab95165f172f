// normalise.h: layer normalisation of the recurrent sums and of c (Ba, Kiros & Hinton, "Layer Normalization", 2016),
// a whole row at a time, forwards and backwards.
//
// kept per block of units: i f g o c, N(R h') of the four gates, N(c), N(W x) of the four gates.
#ifndef HOLDFAST_NORMALISE_H
#define HOLDFAST_NORMALISE_H

#include "variants.h"

enum : Index { NORMALISED_KEPT = 14 };

static inline float total(Vec v)
{
    float sum = 0.0f;
    for (int n = 0; n < VL; ++n) sum += v[n];
    return sum;
}

// 1 in the first lanes, 0 in the others.
static inline Vec first_lanes(Index count)
{
    Vec v = {};
    for (int n = 0; n < VL; ++n) v[n] = n < count ? 1.0f : 0.0f;
    return v;
}

struct Moments {
    float mean, scale; // scale: one over the deviation
};

// Of a row of units: blocks, `apart` floats from each other, of `wide` adjacent vectors. Padding is zero.
static inline Moments moments_of(const float *from, Index blocks, Index wide, Index apart, const holdfast_lstm *p)
{
    const float count = static_cast<float>(wide * p->units);
    const Index present = p->units - (blocks - 1) * VL;
    Vec sum = {}, squares = {};
    for (Index block = 0; block < blocks; ++block)
        for (Index n = 0; n < wide; ++n) sum += load(from + block * apart + n * VL);
    const float mean = total(sum) / count;
    for (Index block = 0; block < blocks; ++block)
        for (Index n = 0; n < wide; ++n) {
            const Vec d = load(from + block * apart + n * VL) - splat(mean);
            const Vec counted = block + 1 < blocks ? d : d * first_lanes(present);
            squares = fma(counted, counted, squares);
        }
    return {mean, 1.0f / __builtin_sqrtf(total(squares) / count + p->cell->epsilon)};
}

// What a normalised row reads and writes: the plain cell's rows, for all of its blocks.
struct NormalisedRow {
    const float *recurrent; // [blocks][4 gates][VL] R h'
    const float *x;         // [blocks][4 gates][VL] W x
    float *norms;           // [3] the scales of R h', c and W x; nullptr where nothing is kept
    float *o;               // [blocks][VL] for a while
    Index blocks, c_apart;  // from block to block of c
};

static void normalised_cells(const Variant &v, const NormalisedRow &row, const float *bias, float *c, float *kept)
{
    const Moments h = moments_of(row.recurrent, row.blocks, GATES, BLOCK_SUMS, v.p);
    const Moments x = moments_of(row.x, row.blocks, GATES, BLOCK_SUMS, v.p);
    for (Index block = 0; block < row.blocks; ++block) {
        Vec of_h[GATES], of_x[GATES], sum[GATES];
        for (Index n = 0; n < GATES; ++n) {
            const Index at = block * BLOCK_SUMS + n * VL;
            of_h[n] = (load(row.recurrent + at) - splat(h.mean)) * splat(h.scale);
            of_x[n] = (load(row.x + at) - splat(x.mean)) * splat(x.scale);
            sum[n] = fma(of_h[n], load(v.gain_h + at), fma(of_x[n], load(v.gain_x + at), load(bias + at)));
        }
        const Vec i = sigmoid(sum[0]), f = sigmoid(sum[1]), g = hyperbolic_tangent(sum[2]), o = sigmoid(sum[3]);
        float *state = c + block * row.c_apart;
        const Vec now = fma(f, load(state), i * g);
        store(state, now);
        store(row.o + block * VL, o);
        if (!kept) continue;
        float *to = kept + block * NORMALISED_KEPT * VL;
        const Vec all[] = {i, f, g, o, now, of_h[0], of_h[1], of_h[2], of_h[3]};
        for (Index n = 0; n < 9; ++n) store(to + n * VL, all[n]);
        for (Index n = 0; n < GATES; ++n) store(to + (10 + n) * VL, of_x[n]);
    }
    if (!row.norms) return;
    row.norms[0] = h.scale;
    row.norms[2] = x.scale;
}

// N(c), times o: what the cell shows, [blocks][VL] over row.o.
static void normalised_outputs(const Variant &v, const NormalisedRow &row, const float *c, float *kept)
{
    const Moments m = moments_of(c, row.blocks, 1, row.c_apart, v.p);
    for (Index block = 0; block < row.blocks; ++block) {
        const Vec normal = (load(c + block * row.c_apart) - splat(m.mean)) * splat(m.scale);
        const Vec shown = fma(normal, load(v.gain_c + block * VL), load(v.bias_c + block * VL));
        store(row.o + block * VL, load(row.o + block * VL) * hyperbolic_tangent(shown));
        if (kept) store(kept + (block * NORMALISED_KEPT + 9) * VL, normal);
    }
    if (row.norms) row.norms[1] = m.scale;
}

// The gradient of v, given that of N(v): scale * (d - mean(d) - N(v) mean(d N(v))), in place. Per block there are
// `wide` adjacent vectors of either.
static void unnormalise(float *d, Index d_apart, const float *normal, Index blocks, Index wide, Index units,
                        float scale)
{
    const float count = static_cast<float>(wide * units);
    Vec sum = {}, product = {};
    for (Index block = 0; block < blocks; ++block)
        for (Index n = 0; n < wide; ++n) {
            const Vec each = load(d + block * d_apart + n * VL);
            sum += each;
            product = fma(each, load(normal + (block * NORMALISED_KEPT + n) * VL), product);
        }
    const Vec mean = splat(total(sum) / count), slope = splat(total(product) / count);
    for (Index block = 0; block < blocks; ++block)
        for (Index n = 0; n < wide; ++n) {
            float *at = d + block * d_apart + n * VL;
            store(at, splat(scale) * (load(at) - mean - load(normal + (block * NORMALISED_KEPT + n) * VL) * slope));
        }
}

// How the normalised output's gradient reaches c and o. The first gate's place holds that of N(c), then that of c.
static void normalised_outputs_backward(const CellGradients &cell, Index blocks)
{
    const Variant &v = *cell.variant;
    const Vec one = splat(1.0f);
    for (Index block = 0; block < blocks; ++block) {
        const float *kept = cell.kept + block * NORMALISED_KEPT * VL;
        const Vec o = load(kept + 3 * VL), gain = load(v.gain_c + block * VL), dh = load(cell.dh + block * VL);
        const Vec tanh_c = hyperbolic_tangent(fma(load(kept + 9 * VL), gain, load(v.bias_c + block * VL)));
        const Vec dshown = dh * o * (one - tanh_c * tanh_c);
        float *to = cell.dgates + block * BLOCK_SUMS;
        store(v.dshown + block * VL, dshown);
        store(to, dshown * gain);
        store(to + 3 * VL, dh * tanh_c * o * (one - o));
        if (v.projected) store(v.projected + block * VL, o * tanh_c);
    }
    unnormalise(cell.dgates, BLOCK_SUMS, cell.kept + 9 * VL, blocks, 1, v.p->units, v.norms[1]);
}

// dgates: the gradient of R h'; beside it that of W x and that of the sums.
static void normalised_backward(const CellGradients &cell, Index blocks, Index present_in_last)
{
    const Variant &v = *cell.variant;
    const Vec one = splat(1.0f);
    const Index units = v.p->units;
    normalised_outputs_backward(cell, blocks);
    for (Index block = 0; block < blocks; ++block) {
        const float *kept = cell.kept + block * NORMALISED_KEPT * VL;
        const Vec i = load(kept), f = load(kept + VL), g = load(kept + 2 * VL);
        float *to = cell.dgates + block * BLOCK_SUMS, *dc_at = cell.dc + block * VL;
        const Vec dc = load(dc_at) + load(to), c_before = load(cell.c_before + block * cell.c_stride);
        store(dc_at, dc * f);
        const Vec all[GATES] = {dc * g * i * (one - i), dc * c_before * f * (one - f), dc * i * (one - g * g),
                                load(to + 3 * VL)};
        for (Index n = 0; n < GATES; ++n) {
            const Index at = block * BLOCK_SUMS + n * VL;
            store(v.dsums + at, all[n]);
            store(v.dinput + at, all[n] * load(v.gain_x + at));
            store(to + n * VL, all[n] * load(v.gain_h + at));
        }
    }
    unnormalise(cell.dgates, BLOCK_SUMS, cell.kept + 5 * VL, blocks, GATES, units, v.norms[0]);
    unnormalise(v.dinput, BLOCK_SUMS, cell.kept + 10 * VL, blocks, GATES, units, v.norms[2]);
    if (!blocks) return;
    clear_padding(cell.dgates, blocks, present_in_last);
    clear_padding(v.dinput, blocks, present_in_last);
    clear_padding(v.dsums, blocks, present_in_last);
}

static void pack_norms(const Variant &v, Index first_block, Index last_block)
{
    const holdfast_lstm *p = v.p;
    for (Index block = first_block; block < last_block; ++block) {
        const Index present = least_index(VL, p->units - block * VL), unit = block * VL;
        for (Index n = 0; n < GATES; ++n) {
            const Index to = block * BLOCK_SUMS + n * VL, from = n * p->units + unit;
            store(v.gain_x + to, load_part(p->cell->gain_x + from, present));
            store(v.gain_h + to, load_part(p->cell->gain_h + from, present));
        }
        store(v.gain_c + unit, load_part(p->cell->gain_c + unit, present));
        store(v.bias_c + unit, load_part(p->cell->bias_c + unit, present));
    }
}

static void plan_norms(Variant &v, Arena &arena)
{
    const Index blocks = blocks_of(v.p);
    if (!is_kind(v.p, HOLDFAST_NORMALISED)) return;
    v.gain_x = arena.take<float>(blocks * BLOCK_SUMS);
    v.gain_h = arena.take<float>(blocks * BLOCK_SUMS);
    v.gain_c = arena.take<float>(blocks * VL);
    v.bias_c = arena.take<float>(blocks * VL);
}

#endif

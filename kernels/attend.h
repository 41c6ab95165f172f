// attend.h: attention of one hypothesis over the steps of its source, by dot products (Luong, Pham & Manning 2015).
#ifndef HOLDFAST_ATTEND_H
#define HOLDFAST_ATTEND_H

#include "normalise.h"

// Less than any score or logit, and small enough to be subtracted from.
static inline Vec next_to_minus_infinity()
{
    return splat(-1e38f);
}

// Lane by lane in four sums, so that the result depends on the width only.
static inline float dot_product(const float *a, const float *b, Index width)
{
    Vec sums[4] = {};
    Index k = 0;
    for (; k + 4 * VL <= width; k += 4 * VL)
        for (Index n = 0; n < 4; ++n) sums[n] = fma(load(a + k + n * VL), load(b + k + n * VL), sums[n]);
    for (; k < width; k += VL) {
        const Index present = least_index(VL, width - k);
        sums[0] = fma(part(a + k, present), part(b + k, present), sums[0]);
    }
    return total((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static inline float largest_of(Vec v)
{
    float most = v[0];
    for (int n = 1; n < VL; ++n) most = v[n] > most || v[n] != v[n] ? v[n] : most; // a NaN counts as largest
    return most;
}

// The largest of some vectors that follow each other.
static inline Vec largest_lanes(const float *from, Index vectors)
{
    Vec most = next_to_minus_infinity(); // also where a word is ruled out by a bias of minus infinity
    for (Index n = 0; n < vectors; ++n) most = largest(most, load(from + n * VL));
    return most;
}

// softmax over `count` scores, in place; they have room up to a multiple of VL, where zeros remain.
static inline void softmax_in_place(float *scores, Index count)
{
    const Index vectors = pieces(count, VL);
    float *last = scores + (vectors - 1) * VL;
    for (Index n = count - (vectors - 1) * VL; n < VL; ++n) last[n] = next_to_minus_infinity()[0];
    const Vec most = splat(largest_of(largest_lanes(scores, vectors)));
    Vec sum = {};
    for (Index n = 0; n < vectors; ++n) {
        const Vec power = exponential(load(scores + n * VL) - most);
        store(scores + n * VL, power);
        sum += power;
    }
    const Vec all = splat(total(sum));
    for (Index n = 0; n < vectors; ++n) store(scores + n * VL, divide(load(scores + n * VL), all));
    for (Index n = count - (vectors - 1) * VL; n < VL; ++n) last[n] = 0.0f;
}

// context = sum over j of alpha_j value_j, in rising order of j.
static inline void weigh(float *context, const float *alpha, const float *values, Index steps, Index width)
{
    Index k = 0;
    for (; k + 4 * VL <= width; k += 4 * VL) {
        Vec sums[4] = {};
        for (Index j = 0; j < steps; ++j)
            for (Index n = 0; n < 4; ++n)
                sums[n] = fma(splat(alpha[j]), load(values + j * width + k + n * VL), sums[n]);
        for (Index n = 0; n < 4; ++n) store(context + k + n * VL, sums[n]);
    }
    for (; k < width; k += VL) {
        const Index present = least_index(VL, width - k);
        Vec sum = {};
        for (Index j = 0; j < steps; ++j) sum = fma(splat(alpha[j]), part(values + j * width + k, present), sum);
        store_part(context + k, sum, present);
    }
}

// s [width] -> alpha [alpha_row], context [remembered].
static void attend(const holdfast_source &source, const float *s, Index width, Index remembered, float *alpha,
                   Index alpha_row, float *context)
{
    for (Index j = 0; j < source.steps; ++j) alpha[j] = dot_product(s, source.keys + j * width, width);
    softmax_in_place(alpha, source.steps);
    const Index written = round_up(source.steps, VL);
    memset(alpha + written, 0, sizeof(float) * static_cast<size_t>(alpha_row - written));
    weigh(context, alpha, source.values, source.steps, remembered);
}

#endif

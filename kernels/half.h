// half.h: bf16 factors for the products, where the CPU multiplies pairs of them and adds into float32 (AVX512-BF16).
//
// Two bf16 that follow each other along k are one word of 32 bits. Strides and depths count words then, and everything
// that stands around a product stays as it is. Elsewhere no word is ever made: halves_pay() says so.
#ifndef HOLDFAST_HALF_H
#define HOLDFAST_HALF_H

#include "layout.h"

// Whether this call multiplies in bf16: it was asked for, this build can, and no part of the cell stands against it.
// What a single step would gain, packing would cost.
static inline bool halves_pay(const holdfast_lstm *p)
{
#if defined(__AVX512BF16__)
    const bool single = p->steps == 1 && p->rows <= 2;
    const bool other = !p->w_input || projects(p) || is_kind(p, HOLDFAST_NORMALISED);
    return p->precision == HOLDFAST_BFLOAT16 && !single && !other;
#else
    (void)p;
    return false;
#endif
}

static inline Index words(bool halves, Index count)
{
    return halves ? (count + 1) / 2 : count;
}

#if defined(__AVX512BF16__)

// Sixteen values, rounded to nearest, as eight words; a NaN stays one.
static inline void store_halves(float *to, Vec v)
{
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &rounded, sizeof rounded);
}

// Words of two values each, the first in the lower half.
static inline Vec paired(Vec first, Vec second)
{
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (Vec)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

#else

static inline void store_halves(float *, Vec) {}
static inline Vec paired(Vec first, Vec)
{
    return first;
}

#endif

// VL values of a row from `column` on, as the tiles read them.
static inline void store_factor(bool halves, float *row, Index column, Vec v)
{
    if (halves)
        store_halves(row + column / 2, v);
    else
        store(row + column, v);
}

// A row of `count` values.
static inline void store_factors(bool halves, float *to, const float *from, Index count)
{
    if (!halves) {
        memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
        return;
    }
    for (Index k = 0; k < count; k += VL) {
        const Index present = least_index(VL, count - k);
        float block[VL];
        store_halves(block, part(from + k, present));
        memcpy(to + k / 2, block, sizeof(float) * static_cast<size_t>(words(true, present)));
    }
}

#endif

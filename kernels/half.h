// half.h: bf16 factors for the products, where the CPU multiplies pairs of them and adds in float32: AVX512-BF16, AMX.
//
// Two bf16 that follow each other along k are one word of 32 bits. Strides and depths count words then, and everything
// that stands around a product stays as it is. A value split in halves is a bf16 and another for what that leaves: the
// words of the second, the low part, stand some way behind those of the first. Elsewhere no word is ever made.
#ifndef HOLDFAST_HALF_H
#define HOLDFAST_HALF_H

#include "layout.h"
#include "product.h"

// What a holdfast_precision means here.
static inline Factors factors_called(Index precision)
{
#if defined(__AVX512BF16__)
    if (precision == HOLDFAST_BFLOAT16X3) return SPLIT_HALVES;
    if (precision == HOLDFAST_BFLOAT16) return HALVES;
#endif
    (void)precision;
    return FLOATS;
}

// In what this call multiplies: as it was asked for, if this build can and no part of the cell stands against it.
// What a single step would gain, packing would cost.
static inline Factors factors_of(const holdfast_lstm *p)
{
    const bool single = p->steps == 1 && p->rows <= 2;
    const bool other = !p->w_input || projects(p) || is_kind(p, HOLDFAST_NORMALISED);
    return single || other ? FLOATS : factors_called(p->precision);
}

// Words of `count` values along k, whole steps of them.
static inline Index words(Factors factors, Index count)
{
    if (factors == FLOATS) return count;
    return in_steps(factors) ? round_up((count + 1) / 2, WORD_STEP) : (count + 1) / 2;
}

// The word that value `column` of a row is in.
static inline Index word_at(Factors factors, Index column)
{
    return factors == FLOATS ? column : column / 2;
}

// Values along k that only one worker can make words of.
static inline Index values_in_step(Factors factors)
{
    return factors == FLOATS ? 1 : in_steps(factors) ? 2 * WORD_STEP : 2;
}

static inline Index parts_of(Factors factors)
{
    return factors == SPLIT_HALVES ? 2 : 1;
}

// How a row of factors stands, and how far behind them its low parts.
struct Format {
    Factors factors;
    Index low;
};

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
    const __m512i n = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i alternating = _mm512_or_si512(n, _mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(16)), 16));
    const __m512bh one_then_other = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (Vec)_mm512_permutexvar_epi16(alternating, (__m512i)one_then_other);
}

// What rounding to bf16 takes away; NaN of an Inf, whose products with low parts of either sign would be one anyway.
static inline Vec rest(Vec v)
{
    const __m512i rounded = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
    return v - (Vec)_mm512_slli_epi32(rounded, 16);
}

#else

static inline void store_halves(float *, Vec) {}
static inline Vec paired(Vec first, Vec)
{
    return first;
}
static inline Vec rest(Vec v)
{
    return v;
}

#endif

// VL values of a row from `column` on, as the tiles read them. Words are multiplied to the end of a step, and NaN * 0
// is a NaN: in them whatever is not `present` is zero.
static inline void store_factor(const Format &as, float *row, Index column, Vec v, Index present)
{
    if (as.factors == FLOATS) {
        store(row + column, v);
        return;
    }
    float *to = row + column / 2;
    if (present < VL) {
        float lanes[VL] = {};
        store_part(lanes, v, present);
        v = load(lanes);
    }
    store_halves(to, v);
    if (as.factors == SPLIT_HALVES) store_halves(to + as.low, rest(v));
}

// Of a row of `count` values the part from `column` on, zero past its end.
static inline Vec row_part(const float *from, Index column, Index count)
{
    return column < count ? part(from + column, least_index(VL, count - column)) : Vec{};
}

// A row of `count` values.
static inline void store_factors(const Format &as, float *to, const float *from, Index count)
{
    if (as.factors == FLOATS) {
        memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
        return;
    }
    const Index whole = count / VL * VL, all = 2 * words(as.factors, count);
    for (Index k = 0; k < whole; k += VL) store_factor(as, to, k, load(from + k), VL);
    for (Index k = whole; k < all; k += VL) { // to the end of its last word, or of its last step
        float block[VL];
        const Vec v = row_part(from, k, count);
        store_halves(block, v);
        memcpy(to + k / 2, block, sizeof(float) * static_cast<size_t>(least_index(VL, all - k) / 2));
        if (as.factors == SPLIT_HALVES) store_halves(to + as.low + k / 2, rest(v)); // whole steps: no part of a vector
    }
}

// Words of two values each, from vectors of them.
static inline void store_pairs(const Format &as, float *to, Vec first, Vec second)
{
    store(to, paired(first, second));
    if (as.factors == SPLIT_HALVES) store(to + as.low, paired(rest(first), rest(second)));
}

#endif

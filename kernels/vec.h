// vec.h: one SIMD register of VL floats, and the dozen operations the engine needs on it.
//
// Arithmetic is written with the compilers' vector types; intrinsics stand only where those have no word for it.
#ifndef HOLDFAST_VEC_H
#define HOLDFAST_VEC_H

#include "engine.h"

#include <string.h>
#ifdef HOLDFAST_X86
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum : Index { VL = 16, TILE_ROWS = 6 };
#elif defined(__AVX2__)
enum : Index { VL = 8, TILE_ROWS = 3 };
#elif defined(__aarch64__)
enum : Index { VL = 4, TILE_ROWS = 6 };
#else
enum : Index { VL = 4, TILE_ROWS = 3 };
#endif

typedef float Vec __attribute__((vector_size(VL * 4), may_alias));
typedef float LooseVec __attribute__((vector_size(VL * 4), may_alias, aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(VL * 4), may_alias));

static inline Vec load(const float *from)
{
    return *reinterpret_cast<const LooseVec *>(from);
}
static inline void store(float *to, Vec v)
{
    *reinterpret_cast<LooseVec *>(to) = v;
}

#if defined(__AVX512F__)

static inline Vec splat(float v)
{
    return (Vec)_mm512_set1_ps(v);
}
static inline Vec fma(Vec a, Vec b, Vec c)
{
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
static inline Vec least(Vec limit, Vec v)
{
    return (Vec)_mm512_min_ps((__m512)limit, (__m512)v);
}
static inline Vec largest(Vec limit, Vec v)
{
    return (Vec)_mm512_max_ps((__m512)limit, (__m512)v);
}
static inline Vec nearest(Vec v)
{
    return (Vec)_mm512_roundscale_ps((__m512)v, 0x08);
}
static inline Vec times_power_of_two(Vec v, Vec n)
{
    return (Vec)_mm512_scalef_ps((__m512)v, (__m512)n);
}
static inline Vec rough_reciprocal(Vec v)
{
    return (Vec)_mm512_rcp14_ps((__m512)v);
}

static inline Vec load_part(const float *from, Index count)
{
    return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
}

static inline void store_part(float *to, Vec v, Index count)
{
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}

#else

static inline Vec load_part(const float *from, Index count)
{
    Vec v = {};
    memcpy(&v, from, sizeof(float) * static_cast<size_t>(count));
    return v;
}

static inline void store_part(float *to, Vec v, Index count)
{
    memcpy(to, &v, sizeof(float) * static_cast<size_t>(count));
}

static inline Vec power_of_two(IntVec n)
{
    return (Vec)((n + 127) << 23);
}

#if defined(__AVX2__)

static inline Vec splat(float v)
{
    return (Vec)_mm256_set1_ps(v);
}
static inline Vec fma(Vec a, Vec b, Vec c)
{
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
static inline Vec least(Vec limit, Vec v)
{
    return (Vec)_mm256_min_ps((__m256)limit, (__m256)v);
}
static inline Vec largest(Vec limit, Vec v)
{
    return (Vec)_mm256_max_ps((__m256)limit, (__m256)v);
}
static inline Vec nearest(Vec v)
{
    return (Vec)_mm256_round_ps((__m256)v, 0x08);
}
static inline Vec times_power_of_two(Vec v, Vec n)
{
    return v * power_of_two((IntVec)_mm256_cvtps_epi32((__m256)n));
}

#else

static inline Vec splat(float v)
{
    return Vec{v, v, v, v};
}
static inline Vec fma(Vec a, Vec b, Vec c)
{
    return a * b + c;
}
static inline Vec least(Vec limit, Vec v)
{
    return limit < v ? limit : v;
}
static inline Vec largest(Vec limit, Vec v)
{
    return limit > v ? limit : v;
}

// Adding 1.5 * 2^23 leaves no room for a fraction; taking it away again leaves the nearest integer (|v| < 2^22).
static inline Vec nearest(Vec v)
{
    return (v + 12582912.0f) - 12582912.0f;
}
static inline Vec times_power_of_two(Vec v, Vec n)
{
    return v * power_of_two(__builtin_convertvector(n, IntVec));
}

#endif
#endif

// The first `present` of VL values.
static inline Vec part(const float *from, Index present)
{
    return present == VL ? load(from) : load_part(from, present);
}

// least and largest give v back when v is a NaN (x86: the second operand), so a NaN survives every clamp.
static inline Vec clamp(Vec v, float limit)
{
    return largest(splat(-limit), least(splat(limit), v));
}

// a / b for 2^-126 <= |b| <= 2^126. One correction of the quotient itself, so that |a| < |b| never gives more than 1.
static inline Vec divide(Vec a, Vec b)
{
#if defined(__AVX512F__)
    const Vec rough = rough_reciprocal(b); // relative error 2^-14
    const Vec quotient = a * rough;
    return fma(fma(-quotient, b, a), rough, quotient);
#else
    return a / b;
#endif
}

// 2^v for v <= 126: 2^floor(v) times a polynomial in the fraction, of degree 5, fitted for least relative error
// (7.5e-8).
static inline Vec two_to_the(Vec v)
{
#if defined(__AVX512F__)
    // vreduceps gives v - floor(v), and 0 for -Inf; vscalefps takes the floor itself.
    const Vec f = (Vec)_mm512_reduce_ps((__m512)v, 0x01);
    const Vec whole = v;
#else
    v = largest(splat(-126.0f), v);
    const Vec whole = nearest(v - splat(0.5f)); // floor, or one less where the fraction comes out as 1
    const Vec f = v - whole;
#endif
    Vec p = fma(splat(1.877576680e-3f), f, splat(8.989340283e-3f));
    p = fma(p, f, splat(5.582631767e-2f));
    p = fma(p, f, splat(2.401536173e-1f));
    p = fma(p, f, splat(6.931530731e-1f));
    p = fma(p, f, splat(9.999999251e-1f));
    return times_power_of_two(p, whole);
}

// sigmoid(v) = 1 / (1 + 2^t), t = -v log2(e). Over [-30, 30] within 1.0e-7 of float64; relative to the result within
// 1.9e-6, which is what rounding t leaves of the tail.
static inline Vec sigmoid(Vec v)
{
    const Vec t = least(splat(126.0f), v * splat(-1.44269504f));
    return divide(splat(1.0f), two_to_the(t) + splat(1.0f));
}

// tanh(v) = u / (u + 2) with u = e^2v - 1 = 2^n (2^f - 1) + (2^n - 1): no cancellation near zero, so the relative error
// stays at rounding level there too: 2.4e-7 over [-30, 30], absolutely 1.5e-7. The polynomial's own is 1.1e-8. Beyond
// |v| = 9.1 the float32 result is 1.
static inline Vec hyperbolic_tangent(Vec v)
{
    const Vec t = clamp(v * splat(2.88539008f), 27.0f);
    const Vec n = nearest(t);
    const Vec f = t - n;
    Vec p = fma(splat(1.540351239e-4f), f, splat(1.339073559e-3f));
    p = fma(p, f, splat(9.618237496e-3f));
    p = fma(p, f, splat(5.550357433e-2f));
    p = fma(p, f, splat(2.402264979e-1f));
    p = fma(p, f, splat(6.931471879e-1f));
    const Vec power = times_power_of_two(splat(1.0f), n);
    const Vec u = fma(power, p * f, power - splat(1.0f));
    return divide(u, u + splat(2.0f));
}

#endif

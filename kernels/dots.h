// dots.h: products with weights that are packed once and read often, in three precisions.
//
// Everything is counted in words of 32 bits: one float, two bf16 or four int8 that follow each other along k. A matrix
// stands in panels of 4 VL of its rows, [panel][words][4][VL], so that whatever the precision is, one vector of words
// meets one word of the other factor:
//
//     c[m][n] = init[m][n] + sum over k, in rising order, of a(m, k) * b[k][n]
//
// float   the chain of multiply-adds of tile.h, hence its bits
// bf16    both factors rounded to bf16, products exact, sums in float32: vdpbf16ps where the CPU has it
// int8    a weight is its row's scale times -127..127; a row of a has a scale too and stands as 1..255, that is with
//         128 added, since vpdpbusd wants one factor without sign. What the 128 add is known beforehand: the sums begin
//         with its negative. They are whole numbers, so every instruction set gets the same.
#ifndef HOLDFAST_DOTS_H
#define HOLDFAST_DOTS_H

#include "layout.h"

typedef uint32_t Word __attribute__((may_alias));
typedef int32_t LooseInt __attribute__((may_alias));
typedef int16_t ShortVec __attribute__((vector_size(VL * 4), may_alias));
typedef int32_t LooseIntVec __attribute__((vector_size(VL * 4), may_alias, aligned(4)));

struct DotsJob {
    Index depth;   // words
    const Word *a; // [rows], a_stride apart: [depth]
    Index a_stride;
    const Word *b; // [panels], b_stride apart: [depth][4][VL]
    Index b_stride;
    const float *init; // [rows], init_stride apart: [panels][4][VL]
    Index init_stride;
    float *c; // [rows], c_stride apart: [panels][4][VL]
    Index c_stride;
    const int32_t *offset; // int8: [panels][4][VL] what the sums begin with
    const float *scale;    // int8: [panels][4][VL] scales of the weights
    const float *row_scale; // int8: [rows] scales of a
};

typedef void (*Dots)(const DotsJob &);

static inline IntVec load_words(const Word *from)
{
    return *reinterpret_cast<const LooseIntVec *>(from);
}

static inline IntVec splat_word(Word word)
{
    return IntVec{} + static_cast<int32_t>(word);
}

// How each precision multiplies. `Factor` is a word of a, spread over a vector and taken apart once for all columns.
struct Floats {
    typedef Vec Sum;
    typedef Vec Factor;

    static Sum begin(const DotsJob &job, Index m, Index n) { return load(job.init + m * job.init_stride + n * VL); }
    static Factor factor(Word word) { return (Vec)splat_word(word); }
    static Sum add(Sum sum, IntVec b, Factor a) { return fma(a, (Vec)b, sum); }
    static Vec end(const DotsJob &, Index, Index, Sum sum) { return sum; }
};

struct Halves {
    typedef Vec Sum;

    static Sum begin(const DotsJob &job, Index m, Index n) { return load(job.init + m * job.init_stride + n * VL); }
    static Vec end(const DotsJob &, Index, Index, Sum sum) { return sum; }
#if defined(__AVX512BF16__)
    typedef IntVec Factor;
    static Factor factor(Word word) { return splat_word(word); }
    static Sum add(Sum sum, IntVec b, Factor a)
    {
        return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)b, (__m512bh)a);
    }
#else
    // A bf16 is the upper half of a float. vdpbf16ps takes the upper one of a pair first, and so do we.
    struct Factor {
        Vec low, high;
    };
    static Vec low(IntVec pair) { return (Vec)(pair << 16); }
    static Vec high(IntVec pair) { return (Vec)(pair & ~0xffff); }
    static Factor factor(Word word) { return {low(splat_word(word)), high(splat_word(word))}; }
    static Sum add(Sum sum, IntVec b, const Factor &a) { return fma(a.low, low(b), fma(a.high, high(b), sum)); }
#endif
};

struct Bytes {
    typedef IntVec Sum;

    static Sum begin(const DotsJob &job, Index, Index n)
    {
        return load_words(reinterpret_cast<const Word *>(job.offset) + n * VL);
    }
    static Vec end(const DotsJob &job, Index m, Index n, Sum sum)
    {
        return fma(__builtin_convertvector(sum, Vec), splat(job.row_scale[m]) * load(job.scale + n * VL),
                   load(job.init + m * job.init_stride + n * VL));
    }
#if defined(__AVX512VNNI__)
    typedef IntVec Factor;
    static Factor factor(Word word) { return splat_word(word); }
    static Sum add(Sum sum, IntVec b, Factor a)
    {
        return (IntVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
    }
#else
    // Bytes 0 and 2 and bytes 1 and 3 of every word as pairs of 16 bits: 255 * 127 does not fit vpmaddubsw's sums.
    struct Factor {
        IntVec even, odd;
    };
    static Factor factor(Word word) { return {splat_word(word & 0xff00ff), splat_word(word >> 8 & 0xff00ff)}; }
    static IntVec pairs(ShortVec a, ShortVec b)
    {
#if defined(__AVX512BW__)
        return (IntVec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
        return (IntVec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
        return (IntVec)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
        return ((IntVec)a << 16 >> 16) * ((IntVec)b << 16 >> 16) + ((IntVec)a >> 16) * ((IntVec)b >> 16);
#endif
    }
    static Sum add(Sum sum, IntVec b, const Factor &a)
    {
        const ShortVec even = (ShortVec)b << 8 >> 8, odd = (ShortVec)b >> 8;
        return sum + pairs((ShortVec)a.even, even) + pairs((ShortVec)a.odd, odd);
    }
#endif
};

// A function of its own, as in tile.h and for the same reason. With one row several panels run side by side: the sums
// of one alone would wait for each other.
template <class Kind, int ROWS, int PANELS> static __attribute__((noinline)) void dots(const DotsJob &job)
{
    enum { WIDTH = GATES * PANELS };
    typename Kind::Sum sum[ROWS][WIDTH];
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
        for (int n = 0; n < WIDTH; ++n) sum[m][n] = Kind::begin(job, m, n);
    const Word *a = job.a, *b = job.b;
    const Index a_stride = job.a_stride, b_stride = job.b_stride;
    for (Index k = job.depth; k > 0; --k) {
        typename Kind::Factor factor[ROWS];
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; ++m) factor[m] = Kind::factor(a[m * a_stride]);
#pragma GCC unroll 16
        for (int n = 0; n < WIDTH; ++n) {
            const IntVec bn = load_words(b + n / GATES * b_stride + n % GATES * VL);
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; ++m) sum[m][n] = Kind::add(sum[m][n], bn, factor[m]);
        }
        a += 1;
        b += BLOCK_SUMS;
    }
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
        for (int n = 0; n < WIDTH; ++n) store(job.c + m * job.c_stride + n * VL, Kind::end(job, m, n, sum[m][n]));
}

// Several rows of floats are tile.h's own business.
template <int ROWS> static void dots_of_floats(const DotsJob &job)
{
    TileJob as_tile = {};
    as_tile.depth = job.depth;
    as_tile.a = reinterpret_cast<const float *>(job.a);
    as_tile.a_stride = job.a_stride;
    as_tile.b = reinterpret_cast<const float *>(job.b);
    as_tile.b_stride = BLOCK_SUMS;
    as_tile.init = job.init;
    as_tile.init_stride = job.init_stride;
    as_tile.c = job.c;
    as_tile.c_stride = job.c_stride;
    tile_of[FLOATS][BY_ROWS][ROWS - 1][PANEL - 1](as_tile);
}

// Rounded to the nearest bf16, ties to even; a NaN stays one. In the lower half of the result.
static inline uint32_t half_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

enum : int32_t { INFINITE_BITS = 0x7f800000 };

// Of a row, what 127 stands for; NaN where the row holds a NaN or an Inf, so that neither is lost. As whole numbers the
// bits of floats without sign stand in the same order as the floats.
static inline float largest_magnitude(const float *from, Index count)
{
    const LooseInt *bits = reinterpret_cast<const LooseInt *>(from);
    int32_t found = 0;
    for (Index k = 0; k < count; ++k) {
        const int32_t size = bits[k] & 0x7fffffff;
        found = size > found ? size : found;
    }
    if (found >= INFINITE_BITS) return __builtin_nanf("");
    float magnitude;
    memcpy(&magnitude, &found, sizeof magnitude);
    return magnitude;
}

// What brings such a row to -127..127. Next to nothing stays next to nothing, and a NaN is kept by its scale.
static inline float inverse_scale(float magnitude)
{
    return 127.0f / (magnitude > 1e-30f ? magnitude : 1e-30f);
}

// The nearest whole number, ties to even, for |value| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
static inline int32_t nearest_whole(float value)
{
    const float shifted = value + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return static_cast<int32_t>(bits - 0x4b400000);
}

// put: a row of a as words; returns its scale. The last word is filled up with zeros.
static float put_floats(Word *to, const float *from, Index count)
{
    memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
    return 1.0f;
}

static float put_halves(Word *to, const float *from, Index count)
{
    for (Index k = 0; k < count / 2; ++k) to[k] = half_of(from[2 * k]) | half_of(from[2 * k + 1]) << 16;
    if (count & 1) to[count / 2] = half_of(from[count - 1]);
    return 1.0f;
}

static float put_bytes(Word *to, const float *from, Index count)
{
    const float magnitude = largest_magnitude(from, count);
    const float inverse = inverse_scale(magnitude);
    unsigned char *bytes = reinterpret_cast<unsigned char *>(to);
    for (Index k = 0; k < count; ++k) bytes[k] = static_cast<unsigned char>(nearest_whole(from[k] * inverse) + 128);
    for (Index k = count; k & 3; ++k) bytes[k] = 0; // times a weight of zero
    return magnitude / 127.0f;
}

// word: `count` weights, at most a word full, as a word; for int8 divided by the scale first.
static Word word_of_floats(const float *from, Index, float)
{
    Word word;
    memcpy(&word, from, sizeof word);
    return word;
}

static Word word_of_halves(const float *from, Index count, float)
{
    return half_of(from[0]) | (count > 1 ? half_of(from[1]) << 16 : 0);
}

static Word word_of_bytes(const float *from, Index count, float inverse)
{
    Word word = 0;
    for (Index k = 0; k < count; ++k)
        word |= (static_cast<Word>(nearest_whole(from[k] * inverse)) & 0xff) << 8 * k;
    return word;
}

// Rows in a tile: sums, one vector of b and the factors must fit the registers.
#if defined(__AVX512F__)
enum : Index { SPLIT_ROWS = 4, PANELS_AT_ONCE = 2 };
#else
enum : Index { SPLIT_ROWS = 2, PANELS_AT_ONCE = 2 };
#endif
#if defined(__AVX512BF16__)
enum : Index { HALVES_ROWS = TILE_ROWS };
#else
enum : Index { HALVES_ROWS = SPLIT_ROWS };
#endif
#if defined(__AVX512VNNI__)
enum : Index { BYTES_ROWS = TILE_ROWS };
#else
enum : Index { BYTES_ROWS = SPLIT_ROWS };
#endif

struct Precision {
    Index per_word;
    bool scaled; // x and h have scales of their own, hence products of their own
    float (*put)(Word *to, const float *from, Index count);
    Word (*word)(const float *from, Index count, float inverse);
    Dots side_by_side;    // one row, PANELS_AT_ONCE panels
    Index most_rows;      // of a tile
    Dots rows[TILE_ROWS]; // one panel
};

// dots_table<Kind, most>: entries past the largest tile repeat it and are never used.
template <class Kind, Index MOST, int ROWS>
static constexpr Dots dots_entry = dots<Kind, (ROWS < MOST ? ROWS : MOST), 1>;

#if defined(__AVX512F__) || defined(__aarch64__)
#define HOLDFAST_DOTS(kind, most)                                                                                      \
    {dots_entry<kind, most, 1>, dots_entry<kind, most, 2>, dots_entry<kind, most, 3>,                                  \
     dots_entry<kind, most, 4>, dots_entry<kind, most, 5>, dots_entry<kind, most, 6>}
#define HOLDFAST_FLOAT_DOTS                                                                                            \
    {dots_of_floats<1>, dots_of_floats<2>, dots_of_floats<3>, dots_of_floats<4>, dots_of_floats<5>, dots_of_floats<6>}
#else
#define HOLDFAST_DOTS(kind, most) {dots_entry<kind, most, 1>, dots_entry<kind, most, 2>, dots_entry<kind, most, 3>}
#define HOLDFAST_FLOAT_DOTS {dots_of_floats<1>, dots_of_floats<2>, dots_of_floats<3>}
#endif

// By holdfast_streams' `precision`.
static constexpr Precision precisions[] = {
    {1, false, put_floats, word_of_floats, dots<Floats, 1, PANELS_AT_ONCE>, TILE_ROWS, HOLDFAST_FLOAT_DOTS},
    {2, false, put_halves, word_of_halves, dots<Halves, 1, PANELS_AT_ONCE>, HALVES_ROWS,
     HOLDFAST_DOTS(Halves, HALVES_ROWS)},
    {4, true, put_bytes, word_of_bytes, dots<Bytes, 1, PANELS_AT_ONCE>, BYTES_ROWS, HOLDFAST_DOTS(Bytes, BYTES_ROWS)},
};

// Some columns of a matrix of weights, packed: `words` of the panel_words of every panel.
struct Matrix {
    Index words;
    Index panel_words;
    Word *packed;    // [panels], panel_words * 4 VL apart: [words][4][VL]
    int32_t *offset; // int8: [panels][4][VL]
    float *scale;    // int8: [panels][4][VL]
};

// weights [..., columns] -> panels first..last; row_of(panel, n) says which of the rows stands at n of 4 VL, or -1.
template <class RowOf>
static void pack_matrix(const Matrix &to, const Precision &as, const float *weights, Index columns, Index panels,
                        RowOf row_of)
{
    for (Index panel = 0; panel < panels; ++panel)
        for (Index n = 0; n < BLOCK_SUMS; ++n) {
            const Index row = row_of(panel, n);
            const float *from = weights + row * columns;
            const float magnitude = as.scaled && row >= 0 ? largest_magnitude(from, columns) : 0.0f;
            const float inverse = inverse_scale(magnitude);
            int32_t total = 0;
            for (Index k = 0; k < to.words; ++k) {
                const Index first = k * as.per_word;
                const Index count = least_index(as.per_word, columns - first);
                const Word word = row < 0 ? 0 : as.word(from + first, count, inverse);
                to.packed[(panel * to.panel_words + k) * BLOCK_SUMS + n] = word;
                for (int byte = 0; byte < 4; ++byte) total += static_cast<signed char>(word >> 8 * byte);
            }
            if (!as.scaled) continue;
            to.offset[panel * BLOCK_SUMS + n] = -128 * total;
            to.scale[panel * BLOCK_SUMS + n] = magnitude / 127.0f;
        }
}

// The product of some rows with some panels of a matrix, from the first given on; several panels for one row only.
static inline void multiply(const Precision &as, const Matrix &with, Index panel, Index panels, Index rows, DotsJob job)
{
    job.depth = with.words;
    job.b = with.packed + panel * with.panel_words * BLOCK_SUMS;
    job.b_stride = with.panel_words * BLOCK_SUMS;
    job.offset = with.offset ? with.offset + panel * BLOCK_SUMS : nullptr;
    job.scale = with.scale ? with.scale + panel * BLOCK_SUMS : nullptr;
    const Dots dots = panels > 1 ? as.side_by_side : as.rows[rows - 1];
    dots(job);
}

#endif

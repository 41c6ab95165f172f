// tile.h: the one matrix kernel. Every product of the engine, forwards and backwards, is made of it.
//
//     c[m][n] = init[m][n] + sum over k, in rising order, of a(m, k) * b[k][n]
//
// for a tile of ROWS x WIDTH*VL elements whose sums stay in registers (6 x 4 of 32 with AVX-512, 3 x 4 of 16 with
// AVX2). The order of the sum does not depend on the tile's shape: this is why the engine gives the same bits for a row
// alone, in a batch, and on any number of threads.
#ifndef HOLDFAST_TILE_H
#define HOLDFAST_TILE_H

#include "vec.h"

// a(m, k) stands at a[m * a_stride + k] (rows) or a[k * a_stride + m] (columns); b's row k at b + k * b_stride; an
// init_stride of 0 gives every row the same start, such as a bias.
struct TileJob {
    Index depth;
    const float *a;
    Index a_stride;
    const float *b;
    Index b_stride;
    const float *init;
    Index init_stride;
    float *c;
    Index c_stride;
    const float *ahead; // per k one cache line is fetched for whoever comes next: this one, and so on, ahead_stride
    Index ahead_stride; // apart; nullptr and 0: none
};

typedef void (*Tile)(const TileJob &);

enum Order { BY_ROWS, BY_COLUMNS };

// What a and b hold: floats; words of two bf16 each (half.h), which some processors multiply in pairs; or such words
// twice, a value being the sum of a high and a low part: high * high, high * low and low * high are added then.
enum Factors { FLOATS, HALVES, SPLIT_HALVES };

// How far from the high part of a, and of b, the low one stands.
struct LowParts {
    Index a, b;
};

template <Factors FACTORS> static inline Vec multiply_add(Vec a, Vec b, Vec sum)
{
#if defined(__AVX512BF16__)
    if (FACTORS == HALVES) return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return fma(a, b, sum);
}

// A function of its own: inlined beside other arithmetic, GCC 12 spills the sums and half the speed is gone.
template <int ROWS, int WIDTH, Order ORDER, Factors FACTORS>
static __attribute__((noinline)) void tile(const TileJob &job)
{
    Vec sum[ROWS][WIDTH];
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < WIDTH; ++n) sum[m][n] = load(job.init + m * job.init_stride + n * VL);
    const float *a = job.a, *b = job.b;
    const Index a_stride = job.a_stride, b_stride = job.b_stride;
    const float *ahead = job.ahead ? job.ahead : b;
    const Index ahead_stride = job.ahead_stride;
    for (Index k = job.depth; k > 0; --k) {
        Vec column[ROWS];
        if (VL < 16) {
            // 16 registers: hold the column of a and let b come one vector at a time.
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; ++m) column[m] = splat(ORDER == BY_ROWS ? a[m * a_stride] : a[m]);
#pragma GCC unroll 8
            for (int n = 0; n < WIDTH; ++n) {
                const Vec bn = load(b + n * VL);
#pragma GCC unroll 8
                for (int m = 0; m < ROWS; ++m) sum[m][n] = multiply_add<FACTORS>(column[m], bn, sum[m][n]);
            }
        } else {
            Vec row[WIDTH];
#pragma GCC unroll 8
            for (int n = 0; n < WIDTH; ++n) row[n] = load(b + n * VL);
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; ++m) {
                const Vec am = splat(ORDER == BY_ROWS ? a[m * a_stride] : a[m]);
#pragma GCC unroll 8
                for (int n = 0; n < WIDTH; ++n) sum[m][n] = multiply_add<FACTORS>(am, row[n], sum[m][n]);
            }
        }
        __builtin_prefetch(ahead, 0, 2);
        ahead += ahead_stride;
        a += ORDER == BY_ROWS ? 1 : a_stride;
        b += b_stride;
    }
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < WIDTH; ++n) store(job.c + m * job.c_stride + n * VL, sum[m][n]);
}

// tile_of[factors][order][rows - 1][width - 1]
#define HOLDFAST_TILES(rows, ...)                                                                                      \
    {tile<rows, 1, __VA_ARGS__>, tile<rows, 2, __VA_ARGS__>, tile<rows, 3, __VA_ARGS__>, tile<rows, 4, __VA_ARGS__>}
#if defined(__AVX512F__) || defined(__aarch64__)
#define HOLDFAST_TILE_TABLE(...)                                                                                       \
    {HOLDFAST_TILES(1, __VA_ARGS__), HOLDFAST_TILES(2, __VA_ARGS__), HOLDFAST_TILES(3, __VA_ARGS__),                   \
     HOLDFAST_TILES(4, __VA_ARGS__), HOLDFAST_TILES(5, __VA_ARGS__), HOLDFAST_TILES(6, __VA_ARGS__)}
#else
#define HOLDFAST_TILE_TABLE(...)                                                                                       \
    {HOLDFAST_TILES(1, __VA_ARGS__), HOLDFAST_TILES(2, __VA_ARGS__), HOLDFAST_TILES(3, __VA_ARGS__)}
#endif

static constexpr Tile tile_of[][2][TILE_ROWS][4] = {
    {HOLDFAST_TILE_TABLE(BY_ROWS, FLOATS), HOLDFAST_TILE_TABLE(BY_COLUMNS, FLOATS)},
#if defined(__AVX512BF16__) && !defined(HOLDFAST_AMX)
    {HOLDFAST_TILE_TABLE(BY_ROWS, HALVES), HOLDFAST_TILE_TABLE(BY_COLUMNS, HALVES)},
#endif
};

enum : Index { PANEL = 4 }; // vectors in the widest tile

static inline Index pieces(Index count, Index most)
{
    return (count + most - 1) / most;
}

// Border `index` of `count` things cut into `parts` pieces of nearly the same size: 16 rows make 6+5+5, not 6+6+4.
static inline Index border(Index count, Index parts, Index index)
{
    return parts ? count * index / parts : 0;
}

#endif

// amx_tile.h: the matrix kernel for AMX: words of two bf16 each, sums in float32.
//
// Up to 32 x 32 sums stand in four registers, two by two, so that each of two pieces of a and of b is used twice:
//
//     0 1   =  4  *  6 7      a piece of a: 16 rows of 16 words, as they lie
//     2 3      5              a piece of b: 16 words down k of 16 columns, as they lie
//
// Every element is one chain over k in steps of sixteen words, whatever rows stand around it. Rows past the last are
// neither read nor written: the registers are shaped for the rows at hand, again only when their number changes.
#ifndef HOLDFAST_AMX_TILE_H
#define HOLDFAST_AMX_TILE_H

#include "amx.h"
#include "tile.h"

enum : Index { AMX_ROWS = 2 * TILE_SIDE };

// Rows in the upper and in the lower registers of this thread; 0: it has none shaped.
struct ShapedTiles {
    Index upper, lower;
};

static thread_local ShapedTiles shaped;

static void shape_tiles(Index rows)
{
    const Index upper = rows < TILE_SIDE ? rows : Index{TILE_SIDE}, lower = rows > TILE_SIDE ? rows - TILE_SIDE : 1;
    if (shaped.upper == upper && (shaped.lower == lower || rows <= TILE_SIDE)) return;
    TileShapes shapes = {};
    shapes.palette = 1;
    for (int n = 0; n < 8; ++n) {
        const bool above = n == 0 || n == 1 || n == 4, below = n == 2 || n == 3 || n == 5;
        shapes.row_bytes[n] = TILE_BYTES;
        shapes.rows[n] = static_cast<unsigned char>(above ? upper : below ? lower : Index{TILE_SIDE});
    }
    configure_tiles(shapes);
    shaped = {upper, lower};
}

// A thread that keeps shaped registers makes every change of threads on its core dearer.
static inline void leave_tiles()
{
    if (shaped.upper) release_tiles();
    shaped = {};
}

static inline Index bytes(Index floats)
{
    return floats * static_cast<Index>(sizeof(float));
}

template <int DOWN> static inline void load_left(const float *a, Index stride)
{
    HOLDFAST_LOAD_TILE(4, a, bytes(stride));
    if (DOWN == 2) HOLDFAST_LOAD_TILE(5, a + TILE_SIDE * stride, bytes(stride));
}

template <int ACROSS> static inline void load_right(const float *b, Index stride)
{
    HOLDFAST_LOAD_TILE(6, b, bytes(stride));
    if (ACROSS == 2) HOLDFAST_LOAD_TILE(7, b + TILE_SIDE, bytes(stride));
}

template <int DOWN, int ACROSS> static inline void load_sums(const float *from, Index stride)
{
    const float *below = from + TILE_SIDE * stride;
    HOLDFAST_LOAD_TILE(0, from, bytes(stride));
    if (ACROSS == 2) HOLDFAST_LOAD_TILE(1, from + TILE_SIDE, bytes(stride));
    if (DOWN == 2) HOLDFAST_LOAD_TILE(2, below, bytes(stride));
    if (DOWN == 2 && ACROSS == 2) HOLDFAST_LOAD_TILE(3, below + TILE_SIDE, bytes(stride));
}

template <int DOWN, int ACROSS> static inline void store_sums(float *to, Index stride)
{
    float *below = to + TILE_SIDE * stride;
    HOLDFAST_STORE_TILE(0, to, bytes(stride));
    if (ACROSS == 2) HOLDFAST_STORE_TILE(1, to + TILE_SIDE, bytes(stride));
    if (DOWN == 2) HOLDFAST_STORE_TILE(2, below, bytes(stride));
    if (DOWN == 2 && ACROSS == 2) HOLDFAST_STORE_TILE(3, below + TILE_SIDE, bytes(stride));
}

template <int DOWN, int ACROSS> static inline void multiply_loaded()
{
    HOLDFAST_MULTIPLY_TILES(0, 4, 6);
    if (ACROSS == 2) HOLDFAST_MULTIPLY_TILES(1, 4, 7);
    if (DOWN == 2) HOLDFAST_MULTIPLY_TILES(2, 5, 6);
    if (DOWN == 2 && ACROSS == 2) HOLDFAST_MULTIPLY_TILES(3, 5, 7);
}

// Of split halves three of four pieces are used for two products, so that eight loads serve twelve of them.
template <int DOWN, int ACROSS, Factors FACTORS>
static __attribute__((noinline)) void amx_tile(const TileJob &job, const LowParts &low, Index column)
{
    settle_memory();
    const Index a_stride = job.a_stride, b_stride = job.b_stride;
    const float *a = job.a, *b = job.b + column;
    const float *ahead = column ? nullptr : job.ahead;
    load_sums<DOWN, ACROSS>(job.init + column, job.init_stride);
    for (Index k = job.depth; k > 0; k -= TILE_SIDE) {
        load_right<ACROSS>(b, b_stride);
        if (FACTORS == SPLIT_HALVES) {
            load_left<DOWN>(a + low.a, a_stride);
            multiply_loaded<DOWN, ACROSS>();
        }
        load_left<DOWN>(a, a_stride);
        multiply_loaded<DOWN, ACROSS>();
        if (FACTORS == SPLIT_HALVES) {
            load_right<ACROSS>(b + low.b, b_stride);
            multiply_loaded<DOWN, ACROSS>();
        }
        for (Index line = 0; ahead && line < TILE_SIDE; ++line, ahead += job.ahead_stride)
            __builtin_prefetch(ahead, 0, 2);
        a += TILE_SIDE;
        b += TILE_SIDE * b_stride;
    }
    store_sums<DOWN, ACROSS>(job.c + column, job.c_stride);
}

// The product of up to AMX_ROWS rows and `width` vectors of columns; a by rows, the depth in whole steps.
static void amx_product(Factors factors, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    typedef void (*Kernel)(const TileJob &, const LowParts &, Index column);
    static constexpr Kernel kernels[2][2][2] = {
        {{amx_tile<1, 1, HALVES>, amx_tile<1, 2, HALVES>}, {amx_tile<2, 1, HALVES>, amx_tile<2, 2, HALVES>}},
        {{amx_tile<1, 1, SPLIT_HALVES>, amx_tile<1, 2, SPLIT_HALVES>},
         {amx_tile<2, 1, SPLIT_HALVES>, amx_tile<2, 2, SPLIT_HALVES>}}};
    shape_tiles(rows);
    for (Index n = 0; n < width; n += 2)
        kernels[factors == SPLIT_HALVES][rows > TILE_SIDE][n + 1 < width](job, low, n * VL);
}

// The roof: products in registers that wait for nobody. A sixteenth as many rounds as of vectors take about as long.
enum : Index { TILES_BURNT = 4, ROUNDS_OF_TILES = 16, TILE_FLOPS = 2 * 2 * TILE_SIDE * TILE_SIDE * TILE_SIDE };

static void burn_tiles(void *job, Index, Index)
{
    shape_tiles(AMX_ROWS);
    HOLDFAST_ZERO_TILE(4);
    HOLDFAST_ZERO_TILE(5);
    HOLDFAST_ZERO_TILE(6);
    HOLDFAST_ZERO_TILE(7);
    for (Index round = *static_cast<const Index *>(job) / ROUNDS_OF_TILES; round > 0; --round) multiply_loaded<2, 2>();
    leave_tiles();
}

#endif

// product.h: which unit makes a product: the tiles of tile.h, those of AMX, or of split halves one of them three times.
#ifndef HOLDFAST_PRODUCT_H
#define HOLDFAST_PRODUCT_H

#include "tile.h"

#if defined(HOLDFAST_AMX)
#include "amx_proof.h"
static constexpr bool HAS_AMX = true;
#else
static constexpr bool HAS_AMX = false;
static inline void leave_tiles() {}
#endif

// Words along k that belong together: AMX takes sixteen at a time. Split halves do everywhere, since their three
// products take turns: in steps of another size they would be added in another order. Whatever stands beside such
// words must be zero in both factors.
enum : Index { WORD_STEP = 16 };

static inline bool in_steps(Factors factors)
{
    return factors == SPLIT_HALVES || (HAS_AMX && factors == HALVES);
}

static inline bool by_amx(Factors factors)
{
    return HAS_AMX && factors != FLOATS;
}

// Rows of the largest tile.
static inline Index rows_at_once(Factors factors)
{
#if defined(HOLDFAST_AMX)
    if (factors != FLOATS) return AMX_ROWS;
#endif
    (void)factors;
    return TILE_ROWS;
}

#if defined(__AVX512BF16__) && !defined(HOLDFAST_AMX)
static void split_product(Order order, Index rows, Index width, const TileJob &job, const LowParts &low)
{
    const Tile product = tile_of[HALVES][order][rows - 1][width - 1];
    TileJob piece = job;
    piece.depth = WORD_STEP;
    for (Index k = 0; k < job.depth; k += WORD_STEP) {
        const float *a = job.a + k * (order == BY_ROWS ? 1 : job.a_stride), *b = job.b + k * job.b_stride;
        const LowParts turns[] = {{low.a, 0}, {0, 0}, {0, low.b}};
        for (const LowParts &turn : turns) {
            piece.a = a + turn.a;
            piece.b = b + turn.b;
            product(piece);
            piece.init = job.c;
            piece.init_stride = job.c_stride;
        }
    }
}
#endif

// `rows` of at most rows_at_once() and `width` vectors of columns. AMX reads a by rows only.
static inline void multiply(Factors factors, Order order, Index rows, Index width, const TileJob &job,
                            const LowParts &low)
{
#if defined(HOLDFAST_AMX)
    if (factors != FLOATS) return amx_product(factors, rows, width, job, low);
#elif defined(__AVX512BF16__)
    if (factors == SPLIT_HALVES) return split_product(order, rows, width, job, low);
#endif
    (void)low;
    tile_of[factors][order][rows - 1][width - 1](job);
}

#endif

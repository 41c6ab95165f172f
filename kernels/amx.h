// amx.h: the tile registers of AMX: eight of up to 16 rows of 64 bytes each, and the handful of operations on them.
//
// Twice: as the CPU has them, and written out as Intel's manual describes them (Software Developer's Manual, volume 2:
// LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS), so that whatever is built of them can be proved where no AMX is to be
// had. What would fault there traps here. The numbers of registers must be literals, hence macros.
#ifndef HOLDFAST_AMX_H
#define HOLDFAST_AMX_H

#include "vec.h"

enum : Index { TILE_SIDE = 16, TILE_BYTES = 64 };

struct alignas(64) TileShapes { // what LDTILECFG reads
    unsigned char palette, start_row, unused[14];
    uint16_t row_bytes[16];
    unsigned char rows[16];
};

#if !defined(HOLDFAST_EMULATED_TILES)

static inline void configure_tiles(const TileShapes &shapes)
{
    // GCC 12's _tile_loadconfig owns up to reading 8 of the 64 bytes (GCC bug 114098).
    asm volatile("ldtilecfg %0" : : "m"(shapes));
}

static inline void release_tiles()
{
    _tile_release();
}

// Nor do GCC 12's loads say that they read memory: what comes before this is written.
static inline void settle_memory()
{
    asm volatile("" : : : "memory");
}

#define HOLDFAST_ZERO_TILE(tile) _tile_zero(tile)
#define HOLDFAST_LOAD_TILE(tile, from, stride) _tile_loadd(tile, from, stride)
#define HOLDFAST_STORE_TILE(tile, to, stride) _tile_stored(tile, to, stride)
#define HOLDFAST_MULTIPLY_TILES(sum, left, right) _tile_dpbf16ps(sum, left, right)

#else

struct EmulatedTiles {
    TileShapes shapes;
    float tile[8][TILE_SIDE][TILE_SIDE];
};

static thread_local EmulatedTiles emulated;

static inline void trap_unless(bool allowed)
{
    if (!allowed) __builtin_trap();
}

static void configure_tiles(const TileShapes &shapes)
{
    trap_unless(shapes.palette == 1 && shapes.start_row == 0);
    for (unsigned char byte : shapes.unused) trap_unless(byte == 0);
    for (int n = 0; n < 16; ++n) {
        trap_unless(shapes.rows[n] <= TILE_SIDE && shapes.row_bytes[n] <= TILE_BYTES && (n < 8 || !shapes.rows[n]));
        trap_unless(!shapes.rows[n] == !shapes.row_bytes[n] && shapes.row_bytes[n] % 4 == 0);
    }
    memset(&emulated, 0, sizeof emulated);
    emulated.shapes = shapes;
}

static void release_tiles()
{
    memset(&emulated, 0, sizeof emulated);
}

static inline void settle_memory() {}

static void emulate_zero(int tile)
{
    trap_unless(emulated.shapes.rows[tile] > 0);
    memset(emulated.tile[tile], 0, sizeof emulated.tile[tile]);
}

static void emulate_load(int tile, const void *from, Index stride)
{
    emulate_zero(tile);
    for (Index m = 0; m < emulated.shapes.rows[tile]; ++m)
        memcpy(emulated.tile[tile][m], static_cast<const char *>(from) + m * stride, emulated.shapes.row_bytes[tile]);
}

static void emulate_store(int tile, void *to, Index stride)
{
    trap_unless(emulated.shapes.rows[tile] > 0);
    for (Index m = 0; m < emulated.shapes.rows[tile]; ++m)
        memcpy(static_cast<char *>(to) + m * stride, emulated.tile[tile][m], emulated.shapes.row_bytes[tile]);
}

// Denormal numbers count as zero, coming in and going out.
static inline Vec flushed(Vec v)
{
    const IntVec normal = (IntVec)(((IntVec)v & 0x7f800000) != 0);
    return (Vec)((IntVec)v & (normal | INT32_MIN));
}

static inline Vec lower_half(IntVec words)
{
    return flushed((Vec)(words << 16));
}

static inline Vec upper_half(IntVec words)
{
    return flushed((Vec)(words & ~0xffff));
}

// TDPBF16PS: the first and the second of all pairs make a chain of fused multiply-adds each, starting from zero; both
// are added together, and that to what was there.
static void emulate_multiply(int sum, int left, int right)
{
    const TileShapes &shapes = emulated.shapes;
    trap_unless(shapes.rows[sum] > 0 && shapes.rows[sum] == shapes.rows[left]);
    trap_unless(shapes.row_bytes[sum] == shapes.row_bytes[right] && shapes.row_bytes[left] == shapes.rows[right] * 4);
    for (Index m = 0; m < shapes.rows[sum]; ++m) {
        Vec first = {}, second = {};
        for (Index k = 0; k < shapes.rows[right]; ++k) {
            const IntVec a = (IntVec)splat(emulated.tile[left][m][k]), b = (IntVec)load(emulated.tile[right][k]);
            first = flushed(fma(lower_half(a), lower_half(b), first));
            second = flushed(fma(upper_half(a), upper_half(b), second));
        }
        float *to = emulated.tile[sum][m];
        store(to, flushed(flushed(load(to)) + flushed(first + second)));
    }
}

#define HOLDFAST_ZERO_TILE(tile) emulate_zero(tile)
#define HOLDFAST_LOAD_TILE(tile, from, stride) emulate_load(tile, from, stride)
#define HOLDFAST_STORE_TILE(tile, to, stride) emulate_store(tile, to, stride)
#define HOLDFAST_MULTIPLY_TILES(sum, left, right) emulate_multiply(sum, left, right)

#endif
#endif

// engine.cc: the engine for one instruction set. CMake compiles this file once per set, with that set's flags and with
// HOLDFAST_ENGINE naming the result. Everything but that one symbol is internal, and no template of the standard
// library is used: otherwise the linker might pick AVX-512 code for a function that an older CPU calls too.
#include "backward.h"
#include "decoder.h"
#include "forward.h"
#include "matrix.h"
#include "softmax.h"
#include "stream.h"

static Index scratch_bytes(const holdfast_lstm *p, bool backwards)
{
    Forward f;
    Backward b = {};
    return backwards ? plan_backward(b, p, nullptr) : plan_forward(f, p, nullptr);
}

// Ten sums hide the latency of any of the CPUs at hand and fit sixteen registers; 0.5 and 1 keep them between 1 and 2.
enum : Index { BURNT_AT_ONCE = 10 };

template <Factors FACTORS> static void burn_worker(void *job, Index, Index)
{
    volatile float hidden[2] = {0.5f, 1.0f}; // or the compiler would do the rounds in its head
    const Vec half = splat(hidden[0]), one = splat(hidden[1]);
    Vec sums[BURNT_AT_ONCE];
    for (Vec &sum : sums) sum = one;
    for (Index round = *static_cast<const Index *>(job); round > 0; --round)
#pragma GCC unroll 10
        for (Vec &sum : sums) sum = FACTORS == FLOATS ? fma(sum, half, one) : multiply_add<FACTORS>(half, one, sum);
    for (const Vec &sum : sums) hidden[0] = sum[0];
}

static Index burn(Index rounds, Index threads, Index precision)
{
    const Index done = rounds * largest_index(threads, 1);
    if (precision == HOLDFAST_BFLOAT16) {
#if defined(HOLDFAST_AMX)
        run_team(threads, burn_tiles, &rounds);
        return done * TILES_BURNT * TILE_FLOPS / ROUNDS_OF_TILES;
#elif defined(__AVX512BF16__)
        run_team(threads, burn_worker<HALVES>, &rounds);
        return done * BURNT_AT_ONCE * 4 * VL;
#endif
    }
    run_team(threads, burn_worker<FLOATS>, &rounds);
    return done * BURNT_AT_ONCE * 2 * VL;
}

#if defined(HOLDFAST_AMX)
static bool is_right()
{
    return products_are_right(amx_product);
}
#else
static bool is_right()
{
    return true;
}
#endif

// Eight sums for the latency of an addition; a line of four vectors at a time, as products read their weights.
static Index read_memory(const float *from, Index floats, Index rounds)
{
    const Index whole = floats / (8 * VL) * (8 * VL);
    Vec sums[8] = {};
    for (Index round = 0; round < rounds; ++round)
        for (Index k = 0; k < whole; k += 8 * VL)
#pragma GCC unroll 8
            for (Index n = 0; n < 8; ++n) sums[n] += load(from + k + n * VL);
    volatile float hidden;
    for (const Vec &sum : sums) hidden = sum[0]; // or nothing would have to be read
    (void)hidden;
    return rounds * whole * static_cast<Index>(sizeof(float));
}

#define HOLDFAST_TEXT(word) #word
#define HOLDFAST_NAME(word) HOLDFAST_TEXT(word)
#define HOLDFAST_JOINED(word) engine_##word
#define HOLDFAST_SYMBOL(word) HOLDFAST_JOINED(word)

const Engine HOLDFAST_SYMBOL(HOLDFAST_ENGINE) = {
    HOLDFAST_NAME(HOLDFAST_ENGINE), kept_floats, scratch_bytes, forward, backward, burn, is_right,
    read_memory, streams_bytes, streams_lay_out, streams_pack, streams_step,
    softmax_scratch_bytes, softmax_cross_entropy,
    decoder_bytes, decoder_lay_out, decoder_pack, decoder_advance,
    matrix_bytes, matrix_pack, product_scratch_bytes, product_make};

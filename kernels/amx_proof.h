// amx_proof.h: whether products by AMX come out right on this CPU, asked before it is chosen.
//
// The kernel was proved by emulation; that a real CPU's registers do what the emulated ones do is seen here. The
// factors are small whole numbers, whose sums are exact in whatever order the CPU adds them.
#ifndef HOLDFAST_AMX_PROOF_H
#define HOLDFAST_AMX_PROOF_H

#include "amx_tile.h"

typedef void (*Product)(Factors, Index rows, Index width, const TileJob &, const LowParts &);

struct ProofMatrices {
    enum : Index { ROWS = AMX_ROWS, WIDTH = 3, COLUMNS = WIDTH * TILE_SIDE, DEPTH = 2 * TILE_SIDE };

    float a[2][ROWS][DEPTH], b[2][DEPTH][COLUMNS]; // words: high parts, low parts
    float init[ROWS][COLUMNS], c[ROWS + 1][COLUMNS];
};

// -6..6, in no order that a transposed or shifted matrix would share.
static inline float proof_value(Index n)
{
    return static_cast<float>(n * 37 % 101 % 13 - 6);
}

// Two bf16, the first in the lower half; whole numbers this small lose nothing.
static inline float proof_word(float first, float second)
{
    uint32_t low, high;
    memcpy(&low, &first, sizeof low);
    memcpy(&high, &second, sizeof high);
    const uint32_t word = low >> 16 | (high & 0xffff0000u);
    float found;
    memcpy(&found, &word, sizeof found);
    return found;
}

static inline float proof_dot(float a, float b)
{
    uint32_t one, other;
    memcpy(&one, &a, sizeof one);
    memcpy(&other, &b, sizeof other);
    const uint32_t halves[4] = {one << 16, one & 0xffff0000u, other << 16, other & 0xffff0000u};
    float value[4];
    memcpy(value, halves, sizeof value);
    return value[0] * value[2] + value[1] * value[3];
}

static void fill_proof(ProofMatrices &m)
{
    float *words = m.a[0][0], *init = m.init[0];
    const Index a_words = sizeof m.a / sizeof(float), b_words = sizeof m.b / sizeof(float);
    for (Index n = 0; n < a_words; ++n) words[n] = proof_word(proof_value(2 * n), proof_value(2 * n + 1));
    words = m.b[0][0];
    for (Index n = 0; n < b_words; ++n) words[n] = proof_word(proof_value(3 * n + 5), proof_value(7 * n + 1));
    for (Index n = 0; n < m.ROWS * m.COLUMNS; ++n) init[n] = proof_value(11 * n + 3);
    for (float &c : m.c[0]) c = 0.0f;
}

static float expected_sum(const ProofMatrices &m, Factors factors, Index row, Index column)
{
    float sum = m.init[row][column];
    for (Index k = 0; k < m.DEPTH; ++k) {
        sum += proof_dot(m.a[0][row][k], m.b[0][k][column]);
        if (factors != SPLIT_HALVES) continue;
        sum += proof_dot(m.a[1][row][k], m.b[0][k][column]) + proof_dot(m.a[0][row][k], m.b[1][k][column]);
    }
    return sum;
}

static bool product_is_right(Product product, ProofMatrices &m, Factors factors, Index rows)
{
    const float untouched = 12345.0f;
    for (float &c : m.c[rows]) c = untouched;
    const Index a_low = m.ROWS * m.DEPTH, b_low = m.DEPTH * m.COLUMNS;
    product(factors, rows, m.WIDTH,
            {m.DEPTH, m.a[0][0], m.DEPTH, m.b[0][0], m.COLUMNS, m.init[0], m.COLUMNS, m.c[0], m.COLUMNS, nullptr, 0},
            {a_low, b_low});
    for (Index row = 0; row <= rows; ++row)
        for (Index column = 0; column < m.COLUMNS; ++column)
            if (m.c[row][column] != (row < rows ? expected_sum(m, factors, row, column) : untouched)) return false;
    return true;
}

// One row, a whole and part of a lower register, and all of both; two columns of registers and one alone.
static bool products_are_right(Product product)
{
    ProofMatrices m;
    fill_proof(m);
    bool right = true;
    const Index heights[] = {1, 19, 32};
    for (Index rows : heights)
        right = right && product_is_right(product, m, HALVES, rows) && product_is_right(product, m, SPLIT_HALVES, rows);
    leave_tiles();
    return right;
}

#endif

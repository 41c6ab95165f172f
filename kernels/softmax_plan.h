// softmax_plan.h: memory and packing of a linear layer, softmax and cross-entropy, whose passes are in softmax.h.
#ifndef HOLDFAST_SOFTMAX_PLAN_H
#define HOLDFAST_SOFTMAX_PLAN_H

#include "pack.h"

enum : Index {
    BLOCK_WORDS = 96,              // whose logits are in the second-level cache between product and powers
    DEEP_WORDS = 4 * BLOCK_WORDS,  // a piece of the sum over words in the gradient of h; whole steps of words
    MOST_TOKENS = 128,             // with 650 columns of h a third of a second-level cache
    MOST_ROUNDED_TOKENS = 256,     // as words h takes half of that, and weights are rounded once for more tokens
    MOST_LOGITS = 5 * 1024 * 1024, // of a chunk; beyond 40960 words it has fewer tokens
    // AMX multiplies so fast that weights and their gradients, which pass through memory once for each chunk, are what
    // costs time: a third of the chunks, 150 MB in place of 20.
    MOST_AMX_TOKENS = 1024,
    MOST_AMX_LOGITS = 40 * 1024 * 1024,
    PANEL_SUMS = PANEL * VL,
    BLOCK_FACTS = 3 // per token of a block of words: largest logit, sum of powers, sum of logits
};

struct SoftmaxWorker {
    float *logits;            // [BLOCK_WORDS][row], where no gradient is wanted; with words a block's gradients
    float *largest, *inverse; // [row] over all words; scale / sum of powers
    float *spread, *factor;   // [row] what smoothing takes from every word; what makes gradients of a block's powers
    float *tail;              // [DEEP_WORDS][PANEL_SUMS] the last columns of some weights, padded; or a panel's words
    float *tile;              // [tile_rows][PANEL_SUMS]
    float *weights;           // [parts][tile_rows][weights_row] rows of weights as words
    float *rounded;           // [parts][BLOCK_WORDS][rounded_row] a block's gradients as words along tokens
};

struct Softmax {
    const holdfast_softmax *p;
    Factors factors;
    Index blocks, chunk, tile_rows; // of words; most tokens in a chunk; most rows of a product
    Index row;                      // floats from word to word in the logits
    Index weights_row, rounded_row, turned_row;
    Panels across; // h with the tokens adjacent: [panel of tokens][column][its tokens]
    Panels along;  // h as it lies: [panel of columns][token][its columns]
    float *logits; // [words][row], where gradients are wanted: then powers; then gradients, or words of two of them
    float *turned; // [parts][chunk][turned_row] gradients as words along the vocabulary, for AMX
    float *facts;  // [blocks][BLOCK_FACTS][row]
    float *dh;     // [panel of columns][chunk][its columns]
    float *zeros;
    SoftmaxWorker *workers;
    Barrier *barrier;
};

// Tokens first..last of the call.
struct SoftmaxChunk {
    Index first, tokens, vectors;
};

static inline bool wants_gradients(const holdfast_softmax *p)
{
    return p->dh || p->dweight || p->dbias;
}

// AMX has a copy of the gradients beside the logits, so fewer tokens fit into the same memory.
static Index most_tokens(const Softmax &s)
{
    const bool amx = by_amx(s.factors);
    const Index most = s.factors == FLOATS ? MOST_TOKENS : amx ? MOST_AMX_TOKENS : MOST_ROUNDED_TOKENS;
    if (!wants_gradients(s.p)) return most;
    const Index halves = 2 + (amx ? parts_of(s.factors) : 0);
    const Index fitting = 2 * (amx ? MOST_AMX_LOGITS : MOST_LOGITS) / (s.p->vocabulary * halves) / VL * VL;
    return least_index(most, largest_index(fitting, VL));
}

static SoftmaxWorker take_worker(const Softmax &s, Arena &arena)
{
    const bool rounds = s.factors != FLOATS, gradients = wants_gradients(s.p);
    const Index parts = parts_of(s.factors);
    SoftmaxWorker own = {};
    if (rounds || !gradients) own.logits = arena.take<float>(BLOCK_WORDS * s.row);
    own.largest = arena.take<float>(s.row);
    own.inverse = arena.take<float>(s.row);
    own.spread = arena.take<float>(s.row);
    own.factor = arena.take<float>(s.row);
    own.tail = arena.take<float>(DEEP_WORDS * PANEL_SUMS);
    own.tile = arena.take<float>(s.tile_rows * PANEL_SUMS);
    if (rounds) own.weights = arena.take<float>(parts * s.tile_rows * s.weights_row);
    if (rounds && s.p->dweight) own.rounded = arena.take<float>(parts * BLOCK_WORDS * s.rounded_row);
    return own;
}

static Index plan_softmax(Softmax &s, const holdfast_softmax *p, void *base)
{
    Arena arena = {static_cast<char *>(base), 0};
    const bool gradients = wants_gradients(p);
    s.p = p;
    s.factors = factors_called(p->precision);
    const Index parts = parts_of(s.factors);
    s.blocks = pieces(p->vocabulary, BLOCK_WORDS);
    s.chunk = least_index(most_tokens(s), round_up(largest_index(p->tokens, 1), VL));
    s.tile_rows = rows_at_once(s.factors);
    s.row = row_stride(s.chunk);
    s.weights_row = row_stride(words(s.factors, p->width));
    s.rounded_row = row_stride(words(s.factors, s.chunk));
    s.turned_row = row_stride(words(s.factors, p->vocabulary));
    s.across = take_panels(arena, s.chunk, words(s.factors, p->width), 0, parts);
    s.along = gradients ? take_panels(arena, p->width, words(s.factors, s.chunk), 0, parts) : Panels{};
    s.logits = gradients ? arena.take<float>(round_up(p->vocabulary, values_in_step(s.factors)) * s.row) : nullptr;
    s.turned = p->dh && by_amx(s.factors) ? arena.take<float>(parts * s.chunk * s.turned_row) : nullptr;
    s.facts = arena.take<float>(s.blocks * BLOCK_FACTS * s.row);
    s.dh = p->dh ? arena.take<float>(s.along.vectors * VL * s.chunk) : nullptr;
    s.zeros = arena.take<float>(PANEL_SUMS);
    s.barrier = arena.take<Barrier>(1);
    const Index workers = largest_index(p->threads, 1);
    s.workers = arena.take<SoftmaxWorker>(workers);
    for (Index n = 0; n < workers; ++n) {
        const SoftmaxWorker own = take_worker(s, arena);
        if (base) s.workers[n] = own;
    }
    return arena.used;
}

// Chunks of nearly the same number of whole vectors of tokens.
static SoftmaxChunk chunk_of(const Softmax &s, Index chunks, Index chunk)
{
    const Index vectors = pieces(s.p->tokens, VL), first = border(vectors, chunks, chunk) * VL;
    const Index last = least_index(border(vectors, chunks, chunk + 1) * VL, s.p->tokens);
    return {first, last - first, pieces(last - first, VL)};
}

static Panels across_of(const Softmax &s, const SoftmaxChunk &chunk)
{
    return {chunk.vectors, pieces(chunk.vectors, PANEL), s.across.depth, s.across.packed, 0, s.across.parts};
}

static Panels along_of(const Softmax &s, const SoftmaxChunk &chunk)
{
    return {s.along.vectors, s.along.count, words(s.factors, chunk.tokens), s.along.packed, 0, s.along.parts};
}

static void pack_tokens(const Softmax &s, const SoftmaxChunk &chunk, Index worker, Index workers)
{
    const Panels across = across_of(s, chunk), along = along_of(s, chunk);
    const Index width = s.p->width;
    const float *h = s.p->h + chunk.first * width;
    for (Index panel = worker; panel < across.count; panel += workers)
        for (Index v = 0; v < across.width(panel); ++v)
            pack_gate({s.factors, across.low(panel)}, across.at(panel) + v * VL, across.width(panel) * VL, h,
                      chunk.tokens, width, across.first(panel) + v, 0);
    if (along.packed && s.factors == FLOATS) return pack_columns(along, h, width, worker, workers);
    for (Index panel = worker; panel < along.count; panel += workers) {
        const Index wide = along.width(panel) * VL, column = along.first(panel) * VL;
        pair_rows({s.factors, along.low(panel)}, along.at(panel), wide, wide,
                  {h + column, chunk.tokens, width, least_index(wide, width - column)});
    }
}

#endif

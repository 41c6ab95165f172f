// softmax.h: a linear layer, softmax and cross-entropy in one go, whose logits never all exist at once.
//
// A chunk of up to MOST_TOKENS tokens goes through the whole vocabulary. Its logits stand with the tokens adjacent,
// [word][token]: then the weights are read as they lie, largest logits and sums of powers are made lane by lane, and
// each of the three products (logits, weight gradient, gradient of h) finds its factors in the order of the tiles.
// Workers share words, or tiles where the sum runs over words; partial results belong to blocks of words, never to
// workers, so that the bits do not depend on their number.
#ifndef HOLDFAST_SOFTMAX_H
#define HOLDFAST_SOFTMAX_H

#include "pack.h"

enum : Index {
    BLOCK_WORDS = 96,              // whose logits are in the second-level cache between product and powers
    DEEP_WORDS = 4 * BLOCK_WORDS,  // a piece of the sum over words in the gradient of h
    MOST_TOKENS = 128,             // with 650 columns of h a third of a second-level cache
    MOST_LOGITS = 5 * 1024 * 1024, // of a chunk; beyond 40960 words it has fewer tokens
    PANEL_SUMS = PANEL * VL,
    BLOCK_FACTS = 3 // per token of a block of words: largest logit, sum of powers, sum of logits
};

struct SoftmaxWorker {
    float *logits;            // [BLOCK_WORDS][row], where no gradient is wanted
    float *largest, *inverse; // [row] over all words; scale / sum of powers
    float *tail;              // [DEEP_WORDS][PANEL_SUMS] the last columns of some weights, padded
    float *tile;              // [TILE_ROWS][PANEL_SUMS]
};

struct Softmax {
    const holdfast_softmax *p;
    Index blocks, chunk; // of words; most tokens in a chunk
    Index row;           // floats from word to word in the logits
    Panels across;       // h with the tokens adjacent: [panel of tokens][column][its tokens]
    Panels along;        // h as it lies: [panel of columns][token][its columns]
    float *logits;       // [words][row], where gradients are wanted
    float *facts;        // [blocks][BLOCK_FACTS][row]
    float *dh;           // [panel of columns][chunk][its columns]
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

static Index plan_softmax(Softmax &s, const holdfast_softmax *p, void *base)
{
    Arena arena = {static_cast<char *>(base), 0};
    const bool gradients = wants_gradients(p);
    const Index fitting = MOST_LOGITS / p->vocabulary / VL * VL;
    const Index most = gradients ? least_index(MOST_TOKENS, largest_index(fitting, VL)) : MOST_TOKENS;
    s.p = p;
    s.blocks = pieces(p->vocabulary, BLOCK_WORDS);
    s.chunk = least_index(most, round_up(largest_index(p->tokens, 1), VL));
    s.row = row_stride(s.chunk);
    s.across = take_panels(arena, s.chunk, p->width);
    s.along = gradients ? take_panels(arena, p->width, s.chunk) : Panels{};
    s.logits = gradients ? arena.take<float>(p->vocabulary * s.row) : nullptr;
    s.facts = arena.take<float>(s.blocks * BLOCK_FACTS * s.row);
    s.dh = p->dh ? arena.take<float>(s.along.vectors * VL * s.chunk) : nullptr;
    s.zeros = arena.take<float>(PANEL_SUMS);
    s.barrier = arena.take<Barrier>(1);
    const Index workers = largest_index(p->threads, 1);
    s.workers = arena.take<SoftmaxWorker>(workers);
    for (Index n = 0; n < workers; ++n) {
        const SoftmaxWorker own = {gradients ? nullptr : arena.take<float>(BLOCK_WORDS * s.row),
                                   arena.take<float>(s.row), arena.take<float>(s.row),
                                   arena.take<float>(DEEP_WORDS * PANEL_SUMS),
                                   arena.take<float>(TILE_ROWS * PANEL_SUMS)};
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
    return {chunk.vectors, pieces(chunk.vectors, PANEL), s.p->width, s.across.packed, 0};
}

static Panels along_of(const Softmax &s, const SoftmaxChunk &chunk)
{
    return {s.along.vectors, s.along.count, chunk.tokens, s.along.packed, 0};
}

static void pack_tokens(const Softmax &s, const SoftmaxChunk &chunk, Index worker, Index workers)
{
    const Panels across = across_of(s, chunk);
    const float *h = s.p->h + chunk.first * s.p->width;
    for (Index panel = worker; panel < across.count; panel += workers)
        for (Index v = 0; v < across.width(panel); ++v)
            for_each_column(h, chunk.tokens, s.p->width, across.first(panel) + v, 0, [&](Index k, Vec column) {
                store(across.at(panel) + (k * across.width(panel) + v) * VL, column);
            });
    if (s.along.packed) pack_columns(along_of(s, chunk), h, s.p->width, worker, workers);
}

// 2^(v log2(e)) for v <= 0
static inline Vec power(Vec v)
{
    return two_to_the(v * splat(1.44269504f));
}

// Words first..last times the chunk's tokens, without the bias.
static void word_logits(const Softmax &s, const SoftmaxChunk &chunk, Index first, Index last, float *logits)
{
    const Panels across = across_of(s, chunk);
    const Index tiles = pieces(last - first, TILE_ROWS), width = s.p->width;
    for (Index t = 0; t < tiles; ++t) {
        const Index word = first + border(last - first, tiles, t);
        const Index count = first + border(last - first, tiles, t + 1) - word;
        const float *weights = s.p->weight + word * width;
        for (Index panel = 0; panel < across.count; ++panel) {
            const Index wide = across.width(panel);
            // While the first panel is at work the next words come from memory.
            const float *ahead = panel ? nullptr : weights + count * width;
            tile_of[FLOATS][BY_ROWS][count - 1][wide - 1](
                {width, weights, width, across.at(panel), wide * VL, s.zeros, 0,
                 logits + (word - first) * s.row + across.first(panel) * VL, s.row, ahead, ahead ? count : 0});
        }
    }
}

// Adds the bias; per token the largest logit, the sum of powers relative to it, and the sum of logits.
static void word_facts(const Softmax &s, const SoftmaxChunk &chunk, Index first, Index last, float *logits,
                       float *facts)
{
    for (Index n = 0; n < chunk.vectors * VL; n += VL) {
        Vec most = splat(-3.40282347e38f), all = {}, powers = {};
        for (Index word = first; word < last; ++word) {
            float *at = logits + (word - first) * s.row + n;
            const Vec logit = s.p->bias ? load(at) + splat(s.p->bias[word]) : load(at);
            store(at, logit);
            most = largest(most, logit);
            all += logit;
        }
        for (Index word = first; word < last; ++word) powers += power(load(logits + (word - first) * s.row + n) - most);
        store(facts + n, most);
        store(facts + s.row + n, powers);
        store(facts + 2 * s.row + n, all);
    }
}

static void first_pass(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    const holdfast_softmax *p = s.p;
    for (Index block = first; block < last; ++block) {
        const Index word = block * BLOCK_WORDS, end = least_index(word + BLOCK_WORDS, p->vocabulary);
        float *logits = s.logits ? s.logits + word * s.row : own.logits;
        word_logits(s, chunk, word, end, logits);
        word_facts(s, chunk, word, end, logits, s.facts + block * BLOCK_FACTS * s.row);
        for (Index n = 0; n < chunk.tokens; ++n) {
            const Index target = p->targets[chunk.first + n];
            if (target >= word && target < end)
                p->facts[2 * p->tokens + chunk.first + n] = logits[(target - word) * s.row + n];
        }
    }
}

// The blocks' facts put together in their order, by every worker for itself: cheaper than to wait once more.
static void gather_facts(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, bool write)
{
    const holdfast_softmax *p = s.p;
    for (Index n = 0; n < chunk.vectors * VL; n += VL) {
        Vec most = splat(-3.40282347e38f), powers = {}, all = {};
        for (Index block = 0; block < s.blocks; ++block)
            most = largest(most, load(s.facts + block * BLOCK_FACTS * s.row + n));
        for (Index block = 0; block < s.blocks; ++block) {
            const float *facts = s.facts + block * BLOCK_FACTS * s.row + n;
            powers = fma(load(facts + s.row), power(load(facts) - most), powers);
            all += load(facts + 2 * s.row);
        }
        store(own.largest + n, most);
        store(own.inverse + n, splat(p->scale) / powers);
        const Index present = least_index(VL, chunk.tokens - n);
        float *to = p->facts + chunk.first + n;
        if (write) store_part(to, most, present);
        if (write) store_part(to + p->tokens, powers, present);
        if (write) store_part(to + 3 * p->tokens, all, present);
    }
}

// The block's logits become their own gradients: scale * (softmax - what the target asks for).
static void logit_gradients(const Softmax &s, const SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first,
                            Index last)
{
    const holdfast_softmax *p = s.p;
    const Vec spread = splat(-p->scale * p->smoothing / static_cast<float>(p->vocabulary));
    for (Index word = first; word < last; ++word) {
        float *logits = s.logits + word * s.row;
        for (Index n = 0; n < chunk.vectors * VL; n += VL)
            store(logits + n, fma(power(load(logits + n) - load(own.largest + n)), load(own.inverse + n), spread));
    }
    for (Index n = 0; n < chunk.tokens; ++n) {
        const Index target = p->targets[chunk.first + n];
        if (target >= first && target < last) s.logits[target * s.row + n] -= p->scale * (1.0f - p->smoothing);
    }
}

static void word_bias_gradients(const Softmax &s, const SoftmaxChunk &chunk, Index first, Index last)
{
    for (Index word = first; word < last; ++word) {
        Vec sum = {};
        for (Index n = 0; n < chunk.tokens; n += VL)
            sum += part(s.logits + word * s.row + n, least_index(VL, chunk.tokens - n));
        float total = chunk.first ? s.p->dbias[word] : 0.0f;
        for (Index n = 0; n < VL; ++n) total += sum[n];
        s.p->dbias[word] = total;
    }
}

// dweight += dlogits h, words first..last. A panel that reaches past the rows' end is worked on beside them.
static void word_weight_gradients(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first,
                                  Index last)
{
    const Panels along = along_of(s, chunk);
    const Index tiles = pieces(last - first, TILE_ROWS), width = s.p->width;
    const bool fresh = chunk.first == 0;
    for (Index t = 0; t < tiles; ++t) {
        const Index word = first + border(last - first, tiles, t);
        const Index count = first + border(last - first, tiles, t + 1) - word;
        for (Index panel = 0; panel < along.count; ++panel) {
            const Index wide = along.width(panel) * VL, column = along.first(panel) * VL;
            const Index present = least_index(wide, width - column);
            const size_t bytes = sizeof(float) * static_cast<size_t>(present);
            float *to = s.p->dweight + word * width + column;
            const bool beside = present < wide;
            for (Index m = 0; beside && !fresh && m < count; ++m) memcpy(own.tile + m * wide, to + m * width, bytes);
            float *sums = beside ? own.tile : to;
            const Index apart = beside ? wide : width;
            // The same columns of the next words; a line per row is enough to start the processor's own prefetcher.
            const float *ahead = fresh ? nullptr : to + count * width;
            tile_of[FLOATS][BY_ROWS][count - 1][wide / VL - 1](
                {chunk.tokens, s.logits + word * s.row, s.row, along.at(panel), wide, fresh ? s.zeros : sums,
                 fresh ? 0 : apart, sums, apart, ahead, ahead ? pieces(count * width, chunk.tokens) : 0});
            for (Index m = 0; beside && m < count; ++m) memcpy(to + m * width, own.tile + m * wide, bytes);
        }
    }
}

static void second_pass(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    for (Index block = first; block < last; ++block) {
        const Index word = block * BLOCK_WORDS, end = least_index(word + BLOCK_WORDS, s.p->vocabulary);
        logit_gradients(s, own, chunk, word, end);
        if (s.p->dbias) word_bias_gradients(s, chunk, word, end);
        if (s.p->dweight) word_weight_gradients(s, own, chunk, word, end);
    }
}

// Weights of words first..last in the columns of a panel: where they lie, or padded where the panel is wider.
static const float *weight_columns(const Softmax &s, SoftmaxWorker &own, Index first, Index last, Index column,
                                   Index wide)
{
    const Index present = least_index(wide, s.p->width - column);
    const float *from = s.p->weight + first * s.p->width + column;
    if (present == wide) return from;
    for (Index k = 0; k < last - first; ++k)
        for (Index n = 0; n < wide; n += VL)
            store(own.tail + k * wide + n, part(from + k * s.p->width + n, least_index(VL, present - n)));
    return own.tail;
}

// dh += dlogits^T weight, tiles first..last of all panels' tiles; the sum over words is one chain, in pieces.
static void token_gradients(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    const Panels along = along_of(s, chunk);
    const Index tiles = pieces(chunk.tokens, TILE_ROWS), words = s.p->vocabulary;
    for (Index word = 0; word < words; word += DEEP_WORDS) {
        const Index end = least_index(word + DEEP_WORDS, words);
        const float *weights = nullptr;
        Index packed = -1; // the panel that `weights` belongs to
        for (Index n = first; n < last; ++n) {
            const Index panel = n / tiles, t = n % tiles, wide = along.width(panel) * VL;
            const Index column = along.first(panel) * VL, token = border(chunk.tokens, tiles, t);
            const Index count = border(chunk.tokens, tiles, t + 1) - token;
            if (packed != panel) weights = weight_columns(s, own, word, end, column, wide), packed = panel;
            float *sums = along.at(panel) - along.packed + s.dh + token * wide;
            // The next panel's weights, a vector of every word by each of the first tiles.
            const float *ahead = t < PANEL ? s.p->weight + word * s.p->width + column + wide + t * VL : nullptr;
            tile_of[FLOATS][BY_COLUMNS][count - 1][wide / VL - 1](
                {end - word, s.logits + word * s.row + token, s.row, weights,
                 weights == own.tail ? wide : s.p->width, word ? sums : s.zeros, word ? wide : 0, sums, wide, ahead,
                 ahead ? s.p->width : 0});
            const size_t bytes = sizeof(float) * static_cast<size_t>(least_index(wide, s.p->width - column));
            float *to = s.p->dh + (chunk.first + token) * s.p->width + column;
            for (Index m = 0; end == words && m < count; ++m) memcpy(to + m * s.p->width, sums + m * wide, bytes);
        }
    }
}

static void softmax_worker(void *job, Index worker, Index workers)
{
    const Softmax &s = *static_cast<const Softmax *>(job);
    SoftmaxWorker &own = s.workers[worker];
    const Index first = border(s.blocks, workers, worker), last = border(s.blocks, workers, worker + 1);
    const Index chunks = pieces(s.p->tokens, s.chunk);
    for (Index c = 0; c < chunks; ++c) {
        const SoftmaxChunk chunk = chunk_of(s, chunks, c);
        pack_tokens(s, chunk, worker, workers);
        wait_for_all(s.barrier, workers); // also: nobody needs the last chunk's logits any more
        first_pass(s, own, chunk, first, last);
        wait_for_all(s.barrier, workers);
        gather_facts(s, own, chunk, worker == 0);
        if (!s.logits) continue;
        second_pass(s, own, chunk, first, last);
        wait_for_all(s.barrier, workers);
        const Index tiles = s.along.count * pieces(chunk.tokens, TILE_ROWS);
        if (s.dh) token_gradients(s, own, chunk, border(tiles, workers, worker), border(tiles, workers, worker + 1));
    }
}

static Index softmax_scratch_bytes(const holdfast_softmax *p)
{
    Softmax s;
    return plan_softmax(s, p, nullptr);
}

static Outcome softmax_cross_entropy(const holdfast_softmax *p)
{
    Softmax s;
    plan_softmax(s, p, p->scratch);
    *s.barrier = {};
    for (Index n = 0; n < PANEL_SUMS; ++n) s.zeros[n] = 0.0f;
    const double flops = 2.0 * static_cast<double>(p->tokens) * static_cast<double>(p->vocabulary * p->width);
    run_team(flops < 4e6 ? 1 : least_index(largest_index(p->threads, 1), s.blocks), softmax_worker, &s);
    return DONE;
}

#endif

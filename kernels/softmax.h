// softmax.h: a linear layer, softmax and cross-entropy in one go, whose logits never all exist at once.
//
// A chunk of up to MOST_TOKENS tokens goes through the whole vocabulary. Its logits stand with the tokens adjacent,
// [word][token]: then the weights are read as they lie, largest logits and sums of powers are made lane by lane, and
// each of the three products (logits, weight gradient, gradient of h) finds its factors in the order of the tiles.
// Workers share words, or tiles where the sum runs over words; partial results belong to blocks of words, never to
// workers, so that the bits do not depend on their number.
//
// Where products take words of two bf16 (half.h) weights are rounded on their way into a product, a tile's rows or a
// panel's piece at a time, once for all tokens of a chunk; and a block's gradients twice: along tokens for the weight
// gradient, which follows at once, and along the vocabulary, in the place of the logits, for the gradient of h.
#ifndef HOLDFAST_SOFTMAX_H
#define HOLDFAST_SOFTMAX_H

#include "softmax_plan.h"

// 2^(v log2(e)) for v <= 0
static inline Vec power(Vec v)
{
    return two_to_the(v * splat(1.44269504f));
}

// Words first..last times the chunk's tokens, without the bias.
static void word_logits(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last,
                        float *logits)
{
    const Panels across = across_of(s, chunk);
    const Index tiles = pieces(last - first, s.tile_rows), width = s.p->width;
    const Format as = {s.factors, s.tile_rows * s.weights_row};
    for (Index t = 0; t < tiles; ++t) {
        const Index word = first + border(last - first, tiles, t);
        const Index count = first + border(last - first, tiles, t + 1) - word;
        const float *weights = s.p->weight + word * width;
        for (Index m = 0; own.weights && m < count; ++m)
            store_factors(as, own.weights + m * s.weights_row, weights + m * width, width);
        for (Index panel = 0; panel < across.count; ++panel) {
            const Index wide = across.width(panel);
            // While the first panel is at work the next words come from memory.
            const float *ahead = panel ? nullptr : weights + count * width;
            multiply(s.factors, BY_ROWS, count, wide,
                     {across.depth, own.weights ? own.weights : weights, own.weights ? s.weights_row : width,
                      across.at(panel), wide * VL, s.zeros, 0, logits + (word - first) * s.row + across.first(panel) * VL,
                      s.row, ahead, ahead ? pieces(count * width, across.depth) : 0},
                     {as.low, across.low(panel)});
        }
    }
}

// The target's logit of those of tokens n.. whose targets are among words first..last.
static inline void target_logits(const Softmax &s, const SoftmaxChunk &chunk, Index n, Index first, Index last,
                                 const float *logits)
{
    const holdfast_softmax *p = s.p;
    for (Index token = n; token < least_index(n + VL, chunk.tokens); ++token) {
        const Index target = p->targets[chunk.first + token];
        if (target >= first && target < last)
            p->facts[2 * p->tokens + chunk.first + token] = logits[(target - first) * s.row + token];
    }
}

// Words that are the targets of tokens n.. once more: so far below all others that their powers are zero.
static inline void leave_out(const Softmax &s, const SoftmaxChunk &chunk, Index n, Index first, Index last,
                             float *logits)
{
    for (Index token = n; token < least_index(n + VL, chunk.tokens); ++token) {
        const Index word = s.p->targets[chunk.first + token];
        if (word >= first && word < last) logits[(word - first) * s.row + token] = -1e38f;
    }
}

// Adds the bias; per token the largest logit, the sum of powers relative to it, and the sum of logits. The powers take
// the logits' place: what is left to do for a gradient is a multiplication.
static void word_facts(const Softmax &s, const SoftmaxChunk &chunk, Index first, Index last, float *logits,
                       float *facts)
{
    for (Index n = 0; n < chunk.vectors * VL; n += VL) {
        Vec most = splat(-3.40282347e38f), all = {}, powers = {};
        if (s.p->beside) leave_out(s, chunk, n, first, last, logits);
        for (Index word = first; word < last; ++word) {
            float *at = logits + (word - first) * s.row + n;
            const Vec logit = s.p->bias ? load(at) + splat(s.p->bias[word]) : load(at);
            store(at, logit);
            most = largest(most, logit);
            all += logit;
        }
        if (!s.p->beside) target_logits(s, chunk, n, first, last, logits);
        for (Index word = first; word < last; ++word) {
            float *at = logits + (word - first) * s.row + n;
            const Vec own = power(load(at) - most);
            store(at, own);
            powers += own;
        }
        store(facts + n, most);
        store(facts + s.row + n, powers);
        store(facts + 2 * s.row + n, all);
    }
}

static void first_pass(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    for (Index block = first; block < last; ++block) {
        const Index word = block * BLOCK_WORDS, end = least_index(word + BLOCK_WORDS, s.p->vocabulary);
        float *logits = s.logits ? s.logits + word * s.row : own.logits;
        word_logits(s, own, chunk, word, end, logits);
        word_facts(s, chunk, word, end, logits, s.facts + block * BLOCK_FACTS * s.row);
    }
}

// The blocks' facts put together in their order, by every worker for itself: cheaper than to wait once more.
static void gather_facts(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, bool write)
{
    const holdfast_softmax *p = s.p;
    const Vec share = splat(-p->smoothing / static_cast<float>(p->vocabulary));
    for (Index n = 0; n < chunk.vectors * VL; n += VL) {
        const Index present = least_index(VL, chunk.tokens - n);
        Vec most = splat(-3.40282347e38f), powers = {}, all = {};
        if (p->beside) most = part(p->beside + chunk.first + n, present);
        for (Index block = 0; block < s.blocks; ++block)
            most = largest(most, load(s.facts + block * BLOCK_FACTS * s.row + n));
        if (p->beside) powers = power(part(p->beside + chunk.first + n, present) - most);
        for (Index block = 0; block < s.blocks; ++block) {
            const float *facts = s.facts + block * BLOCK_FACTS * s.row + n;
            powers = fma(load(facts + s.row), power(load(facts) - most), powers);
            all += load(facts + 2 * s.row);
        }
        Vec scale = splat(p->scale);
        if (p->weights) scale = scale * part(p->weights + chunk.first + n, present);
        store(own.largest + n, most);
        store(own.inverse + n, scale / powers);
        store(own.spread + n, scale * share);
        float *to = p->facts + chunk.first + n;
        if (write) store_part(to, most, present);
        if (write) store_part(to + p->tokens, powers, present);
        if (write) store_part(to + 3 * p->tokens, all, present);
    }
}

// A block's powers become the gradients of its logits, in `to`: scale * (softmax - what the target asks for).
static void logit_gradients(const Softmax &s, const SoftmaxWorker &own, const SoftmaxChunk &chunk, Index block,
                            Index last, float *to)
{
    const holdfast_softmax *p = s.p;
    const Index first = block * BLOCK_WORDS;
    const float *most = s.facts + block * BLOCK_FACTS * s.row;
    for (Index n = 0; n < chunk.vectors * VL; n += VL)
        store(own.factor + n, power(load(most + n) - load(own.largest + n)) * load(own.inverse + n));
    for (Index word = first; word < last; ++word) {
        const float *powers = s.logits + word * s.row;
        float *gradients = to + (word - first) * s.row;
        for (Index n = 0; n < chunk.vectors * VL; n += VL)
            store(gradients + n, fma(load(powers + n), load(own.factor + n), load(own.spread + n)));
    }
    for (Index n = 0; n < chunk.tokens && !p->beside; ++n) {
        const Index target = p->targets[chunk.first + n];
        const float weight = p->weights ? p->weights[chunk.first + n] : 1.0f;
        if (target >= first && target < last)
            to[(target - first) * s.row + n] -= p->scale * weight * (1.0f - p->smoothing);
    }
}

static void word_bias_gradients(const Softmax &s, const SoftmaxChunk &chunk, Index first, Index last,
                                const float *gradients)
{
    for (Index word = first; word < last; ++word, gradients += s.row) {
        Vec sum = {};
        for (Index n = 0; n < chunk.tokens; n += VL) sum += part(gradients + n, least_index(VL, chunk.tokens - n));
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
    const Index tiles = pieces(last - first, s.tile_rows), width = s.p->width;
    const Index row = own.rounded ? s.rounded_row : s.row;
    const float *gradients = own.rounded ? own.rounded : s.logits + first * s.row;
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
            multiply(s.factors, BY_ROWS, count, wide / VL,
                     {along.depth, gradients + (word - first) * row, row, along.at(panel), wide,
                      fresh ? s.zeros : sums, fresh ? 0 : apart, sums, apart, ahead,
                      ahead ? pieces(count * width, along.depth) : 0},
                     {BLOCK_WORDS * s.rounded_row, along.low(panel)});
            for (Index m = 0; beside && m < count; ++m) memcpy(to + m * width, own.tile + m * wide, bytes);
        }
    }
}

// AMX reads its left factor by rows: the words of a token lie side by side. A step at a time.
static void turn_gradients(const Softmax &s, const Rows &gradients, Index first)
{
    for (Index part = 0; part < parts_of(s.factors); ++part)
        for (Index k = 0; k < gradients.count; k += values_in_step(s.factors))
            for (Index n = 0; n < gradients.present; n += VL) {
                Vec square[VL];
                for (Index m = 0; m < VL; ++m) {
                    const Vec one = gradients.at(k + 2 * m, n), other = gradients.at(k + 2 * m + 1, n);
                    square[m] = part ? paired(rest(one), rest(other)) : paired(one, other);
                }
                transpose(square);
                float *to = s.turned + (part * s.chunk + n) * s.turned_row + (first + k) / 2;
                for (Index m = 0; m < VL; ++m) store(to + m * s.turned_row, square[m]);
            }
}

// The gradients of words first..last as words of two bf16. Those along the vocabulary stand in every other row of the
// logits, and their low parts in the rows between.
static void round_gradients(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    const Format along_tokens = {s.factors, BLOCK_WORDS * s.rounded_row};
    for (Index m = 0; own.rounded && m < last - first; ++m)
        store_factors(along_tokens, own.rounded + m * s.rounded_row, own.logits + m * s.row, chunk.tokens);
    const Rows gradients = {own.logits, last - first, s.row, chunk.vectors * VL};
    if (s.turned) return turn_gradients(s, gradients, first);
    if (s.dh) pair_rows({s.factors, s.row}, s.logits + first * s.row, 2 * s.row, gradients.present, gradients);
}

static void second_pass(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    for (Index block = first; block < last; ++block) {
        const Index word = block * BLOCK_WORDS, end = least_index(word + BLOCK_WORDS, s.p->vocabulary);
        float *gradients = own.logits ? own.logits : s.logits + word * s.row;
        logit_gradients(s, own, chunk, block, end, gradients);
        if (s.p->dbias) word_bias_gradients(s, chunk, word, end, gradients);
        if (own.logits) round_gradients(s, own, chunk, word, end);
        if (s.p->dweight) word_weight_gradients(s, own, chunk, word, end);
    }
}

// Weights and how far it is from row to row, and to their low parts.
struct WeightPanel {
    const float *from;
    Index apart, low;
};

// Weights of words first..last in the columns of a panel: where they lie, or padded where the panel is wider, or words.
static WeightPanel weight_columns(const Softmax &s, SoftmaxWorker &own, Index first, Index last, Index column,
                                  Index wide)
{
    const Index width = s.p->width;
    const Rows rows = {s.p->weight + first * width + column, last - first, width, least_index(wide, width - column)};
    const Index low = DEEP_WORDS / 2 * PANEL_SUMS;
    if (s.factors == FLOATS && rows.present == wide) return {rows.from, width, 0};
    if (s.factors != FLOATS) pair_rows({s.factors, low}, own.tail, wide, wide, rows);
    for (Index k = 0; s.factors == FLOATS && k < rows.count; ++k)
        for (Index n = 0; n < wide; n += VL) store(own.tail + k * wide + n, rows.at(k, n));
    return {own.tail, wide, low};
}

// The gradients of the logits of words from `word` on, as the left factor of the gradient of h.
static TileJob gradients_of(const Softmax &s, Index word, Index last, Index token)
{
    TileJob job = {};
    job.depth = words(s.factors, last - word);
    job.a = s.turned ? s.turned + token * s.turned_row + word / 2 : s.logits + word * s.row + token;
    job.a_stride = s.turned ? s.turned_row : s.factors == FLOATS ? s.row : 2 * s.row;
    return job;
}

// dh += dlogits^T weight, tiles first..last of all panels' tiles; the sum over words is one chain, in pieces.
static void token_gradients(const Softmax &s, SoftmaxWorker &own, const SoftmaxChunk &chunk, Index first, Index last)
{
    const Panels along = along_of(s, chunk);
    const Index tiles = pieces(chunk.tokens, s.tile_rows), all = s.p->vocabulary, width = s.p->width;
    const Index per_word = s.factors == FLOATS ? 1 : 2;
    for (Index word = 0; word < all; word += DEEP_WORDS) {
        const Index end = least_index(word + DEEP_WORDS, all);
        WeightPanel weights = {};
        Index packed = -1; // the panel that `weights` belongs to
        for (Index n = first; n < last; ++n) {
            const Index panel = n / tiles, t = n % tiles, wide = along.width(panel) * VL;
            const Index column = along.first(panel) * VL, token = border(chunk.tokens, tiles, t);
            const Index count = border(chunk.tokens, tiles, t + 1) - token;
            if (packed != panel) weights = weight_columns(s, own, word, end, column, wide), packed = panel;
            TileJob job = gradients_of(s, word, end, token);
            job.b = weights.from, job.b_stride = weights.apart;
            job.c = s.dh + column * chunk.tokens + token * wide, job.c_stride = wide;
            job.init = word ? job.c : s.zeros, job.init_stride = word ? wide : 0;
            // The next panel's weights, a vector of every word by each of the first tiles.
            if (t < PANEL * per_word) {
                const float *row = s.p->weight + (word + t / PANEL) * width;
                job.ahead = row + column + wide + t % PANEL * VL, job.ahead_stride = per_word * width;
            }
            multiply(s.factors, s.turned ? BY_ROWS : BY_COLUMNS, count, wide / VL, job,
                     {s.turned ? s.chunk * s.turned_row : s.row, weights.low});
            const size_t bytes = sizeof(float) * static_cast<size_t>(least_index(wide, width - column));
            float *to = s.p->dh + (chunk.first + token) * width + column;
            for (Index m = 0; end == all && m < count; ++m) memcpy(to + m * width, job.c + m * wide, bytes);
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
        const Index tiles = s.along.count * pieces(chunk.tokens, s.tile_rows);
        if (s.dh) token_gradients(s, own, chunk, border(tiles, workers, worker), border(tiles, workers, worker + 1));
    }
    leave_tiles();
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

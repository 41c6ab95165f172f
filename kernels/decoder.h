// decoder.h: one step of a decoder with attention: its streams, attention, the combining layer, the output's softmax.
//
// A step of one hypothesis is bound by how fast the output's weights come out of the cache: they are packed once, in
// words of the streams' precision, and the logits' largest and sums are taken while a panel's are in the first-level
// cache. They belong to panels, lane by lane, and are put together in the panels' order: threads change no bit.
#ifndef HOLDFAST_DECODER_H
#define HOLDFAST_DECODER_H

#include "attend.h"
#include "stream.h"

struct DecoderPlan {
    const Precision *precision;
    Index width, joined; // of s; of [context ; s]
    Matrix combine, output;
    Index combine_panels, output_panels;
    float *combine_bias, *output_bias; // [panels][4][VL]; past the vocabulary next to minus infinity
    Index joined_words, a_words;       // strides of rows
    Index joined_row, a_row;
    float *x;         // [slots][features]
    float *s;         // [slots][width]
    float *joined_at; // [slots], joined_row apart: context, then s
    float *a;         // [slots], a_row apart
    Word *words;      // [slots], joined_words apart: of [context ; s]
    Word *fed_words;  // [slots], a_words apart: of a
    float *scale[2];  // [slots] of either
    float *largest, *sums; // [slots][panels][VL] of every lane its largest logit, and sum of exp(logit - that)
    double flops, weight_bytes; // of a row, without the streams'
    Index busy;                 // 1 while a step is on its way
    Barrier barrier;
};

static Index lay_out_decoder(const holdfast_decoder *p, char *base, DecoderPlan **at)
{
    Arena arena = {base, 0};
    *at = arena.take<DecoderPlan>(1);
    const StreamPlan &streams = *static_cast<const StreamPlan *>(p->streams->memory);
    const Index slots = p->streams->slots;
    DecoderPlan plan = {};
    const Precision &as = *streams.precision;
    plan.precision = &as;
    plan.width = streams.width;
    plan.joined = p->remembered + plan.width;
    plan.combine_panels = pieces(p->combined, BLOCK_SUMS);
    plan.output_panels = pieces(p->vocabulary, BLOCK_SUMS);
    plan.combine = take_matrix(arena, as, pieces(plan.joined, as.per_word), plan.combine_panels);
    plan.output = take_matrix(arena, as, pieces(p->combined, as.per_word), plan.output_panels);
    plan.combine_bias = arena.take<float>(plan.combine_panels * BLOCK_SUMS);
    plan.output_bias = arena.take<float>(plan.output_panels * BLOCK_SUMS);
    plan.joined_words = row_stride(plan.combine.words);
    plan.a_words = row_stride(plan.output.words);
    plan.joined_row = row_stride(plan.joined);
    plan.a_row = row_stride(plan.combine_panels * BLOCK_SUMS);
    plan.x = arena.take<float>(slots * p->streams->features);
    plan.s = arena.take<float>(slots * plan.width);
    plan.joined_at = arena.take<float>(slots * plan.joined_row);
    plan.a = arena.take<float>(slots * plan.a_row);
    plan.words = arena.take<Word>(slots * plan.joined_words);
    plan.fed_words = arena.take<Word>(slots * plan.a_words);
    for (float *&scale : plan.scale) scale = arena.take<float>(slots);
    plan.largest = arena.take<float>(slots * plan.output_panels * VL);
    plan.sums = arena.take<float>(slots * plan.output_panels * VL);
    const double weights = static_cast<double>(p->combined * (plan.joined + p->vocabulary));
    plan.flops = 2 * weights;
    plan.weight_bytes = 4 * weights / static_cast<double>(as.per_word);
    if (base) **at = plan;
    return arena.used;
}

static Index decoder_bytes(const holdfast_decoder *p)
{
    DecoderPlan *plan;
    return lay_out_decoder(p, nullptr, &plan);
}

static void decoder_lay_out(const holdfast_decoder *p)
{
    memset(p->memory, 0, static_cast<size_t>(decoder_bytes(p)));
    DecoderPlan *plan;
    lay_out_decoder(p, static_cast<char *>(p->memory), &plan);
}

static void decoder_pack(const holdfast_decoder *p, const holdfast_decoder_weights *from)
{
    const DecoderPlan &plan = *static_cast<const DecoderPlan *>(p->memory);
    const auto row_below = [](Index rows) {
        return [=](Index panel, Index n) { return panel * BLOCK_SUMS + n < rows ? panel * BLOCK_SUMS + n : -1; };
    };
    pack_matrix(plan.combine, *plan.precision, from->combine, plan.joined, plan.combine_panels, row_below(p->combined));
    pack_matrix(plan.output, *plan.precision, from->output, p->combined, plan.output_panels, row_below(p->vocabulary));
    for (Index n = 0; n < p->combined; ++n) plan.combine_bias[n] = from->combine_bias ? from->combine_bias[n] : 0.0f;
    for (Index n = 0; n < plan.output_panels * BLOCK_SUMS; ++n)
        plan.output_bias[n] = n >= p->vocabulary  ? next_to_minus_infinity()[0]
                              : from->output_bias ? from->output_bias[n]
                                                  : 0.0f;
}

// A product of all rows of a step with panels of a matrix: c [rows], c_row apart.
struct DecoderProduct {
    const Matrix *with;
    const Word *a;
    Index a_stride;
    const float *scale, *bias;
    float *c;
    Index c_row;
};

// Panels first..last, panel by panel; done(panel, panels) is told while the sums are still near.
template <class Done>
static void multiply_rows(const Precision &as, const DecoderProduct &p, Index rows, Index first, Index last, Done done)
{
    const Index tiles = pieces(rows, as.most_rows);
    Index together = 1;
    for (Index panel = first; panel < last; panel += together) {
        together = rows == 1 ? least_index(PANELS_AT_ONCE, last - panel) : 1;
        for (Index t = 0; t < tiles; ++t) {
            const Index row = border(rows, tiles, t), count = border(rows, tiles, t + 1) - row;
            DotsJob job = {};
            job.a = p.a + row * p.a_stride;
            job.a_stride = p.a_stride;
            job.init = p.bias + panel * BLOCK_SUMS;
            job.c = p.c + row * p.c_row + panel * BLOCK_SUMS;
            job.c_stride = p.c_row;
            job.row_scale = p.scale + row;
            multiply(as, *p.with, panel, together, count, job);
        }
        done(panel, together);
    }
}

// log(v) for a float v >= 1: the library links no libm.
static inline float logarithm_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (!(v < 3e38f)) return v; // Inf and NaN
    const float power = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127);
    bits = (bits & 0x7fffff) | 0x3f800000;
    memcpy(&v, &bits, sizeof v);
    return power * 0.69314718f + logarithm(splat(v))[0];
}

// The largest of a row's logits, and the logarithm of the sum of exp(logit - it), from those of its panels.
static inline void put_together(const DecoderPlan &plan, Index row, float &most, float &log_sum)
{
    const Index panels = plan.output_panels;
    const float *largest = plan.largest + row * panels * VL, *sums = plan.sums + row * panels * VL;
    most = largest_of(largest_lanes(largest, panels));
    Vec sum = {};
    for (Index n = 0; n < panels; ++n)
        sum = fma(load(sums + n * VL), exponential(load(largest + n * VL) - splat(most)), sum);
    log_sum = logarithm_of(total(sum));
}

// The facts of a panel of a row's logits.
static inline void note_panel(const DecoderPlan &plan, Index row, Index panel, const float *logits)
{
    const Vec most = largest_lanes(logits, GATES);
    Vec sum = {};
    for (Index n = 0; n < GATES; ++n) sum += exponential(load(logits + n * VL) - most);
    const Index at = (row * plan.output_panels + panel) * VL;
    store(plan.largest + at, most);
    store(plan.sums + at, sum);
}

static void attend_rows(const holdfast_decoder_step *step, const DecoderPlan &plan, Index first, Index last)
{
    const holdfast_decoder *p = step->decoder;
    for (Index m = first; m < last; ++m) {
        const holdfast_source &source = p->sources[p->source_of[step->slots[m]]];
        const float *s = plan.s + m * plan.width;
        float *joined = plan.joined_at + m * plan.joined_row;
        attend(source, s, plan.width, p->remembered, step->alpha + m * step->alpha_row, step->alpha_row, joined);
        memcpy(joined + p->remembered, s, sizeof(float) * static_cast<size_t>(plan.width));
        plan.scale[0][m] = plan.precision->put(plan.words + m * plan.joined_words, joined, plan.joined);
    }
}

// a for some panels of it.
static void combine(const DecoderPlan &plan, Index rows, Index first, Index last)
{
    const DecoderProduct product = {&plan.combine, plan.words, plan.joined_words, plan.scale[0], plan.combine_bias,
                                    plan.a, plan.a_row};
    multiply_rows(*plan.precision, product, rows, first, last, [&](Index panel, Index panels) {
        for (Index m = 0; m < rows; ++m)
            for (Index k = panel * BLOCK_SUMS; k < (panel + panels) * BLOCK_SUMS; k += VL) {
                float *at = plan.a + m * plan.a_row + k;
                store(at, hyperbolic_tangent(load(at)));
            }
    });
}

static void put_fed(const holdfast_decoder_step *step, const DecoderPlan &plan, Index first, Index last)
{
    const holdfast_decoder *p = step->decoder;
    for (Index m = first; m < last; ++m) {
        const float *a = plan.a + m * plan.a_row;
        memcpy(p->fed + step->slots[m] * p->combined, a, sizeof(float) * static_cast<size_t>(p->combined));
        plan.scale[1][m] = plan.precision->put(plan.fed_words + m * plan.a_words, a, p->combined);
    }
}

static void decoder_worker(void *job, Index worker, Index workers)
{
    const holdfast_decoder_step *step = static_cast<const holdfast_decoder_step *>(job);
    DecoderPlan &plan = *static_cast<DecoderPlan *>(step->decoder->memory);
    const Index rows = step->rows, first_row = border(rows, workers, worker);
    const Index last_row = border(rows, workers, worker + 1);
    attend_rows(step, plan, first_row, last_row);
    wait_for_all(&plan.barrier, workers);
    combine(plan, rows, border(plan.combine_panels, workers, worker), border(plan.combine_panels, workers, worker + 1));
    wait_for_all(&plan.barrier, workers);
    put_fed(step, plan, first_row, last_row);
    wait_for_all(&plan.barrier, workers);
    const Index first = border(plan.output_panels, workers, worker);
    const Index last = border(plan.output_panels, workers, worker + 1);
    const DecoderProduct product = {&plan.output, plan.fed_words, plan.a_words, plan.scale[1], plan.output_bias,
                                    step->result, step->result_row};
    multiply_rows(*plan.precision, product, rows, first, last, [&](Index panel, Index panels) {
        for (Index m = 0; m < rows; ++m)
            for (Index n = panel; n < panel + panels; ++n)
                note_panel(plan, m, n, step->result + m * step->result_row + n * BLOCK_SUMS);
    });
    wait_for_all(&plan.barrier, workers);
    for (Index m = 0; m < rows; ++m) {
        float most, log_sum;
        put_together(plan, m, most, log_sum);
        float *logits = step->result + m * step->result_row;
        for (Index k = first * BLOCK_SUMS; k < last * BLOCK_SUMS; k += VL)
            store(logits + k, (load(logits + k) - splat(most)) - splat(log_sum));
    }
}

static Index decoder_workers(const DecoderPlan &plan, const holdfast_decoder_step *step)
{
    const Index threads = step->decoder->streams->threads;
    const Index by_weights = static_cast<Index>(plan.weight_bytes / LEAST_BYTES_BY_SHARER);
    const Index by_flops = static_cast<Index>(static_cast<double>(step->rows) * plan.flops / 4e6);
    return largest_index(1, least_index(threads, largest_index(by_weights, by_flops)));
}

static Outcome examine_rows(const holdfast_decoder_step *step)
{
    const holdfast_decoder *p = step->decoder;
    for (Index m = 0; m < step->rows; ++m) {
        if (step->tokens[m] < 0 || step->tokens[m] >= p->vocabulary) return BAD_TARGET;
        const Index slot = step->slots[m];
        if (slot < 0 || slot >= p->streams->slots || p->streams->open[slot] != OPEN) return BAD_SLOT;
        if (!p->sources || p->sources[p->source_of[slot]].steps < 1) return BAD_SOURCE;
    }
    return DONE;
}

static Outcome advance_alone(const holdfast_decoder_step *step, DecoderPlan &plan)
{
    const holdfast_decoder *p = step->decoder;
    if (const Outcome wrong = examine_rows(step)) return wrong;
    for (Index m = 0; m < step->rows; ++m) {
        float *x = plan.x + m * p->streams->features;
        memcpy(x, p->embedding + step->tokens[m] * p->embedded, sizeof(float) * static_cast<size_t>(p->embedded));
        memcpy(x + p->embedded, p->fed + step->slots[m] * p->combined,
               sizeof(float) * static_cast<size_t>(p->combined));
    }
    const holdfast_step inner = {p->streams, step->rows, plan.x, p->streams->features, step->slots, plan.s};
    if (const Outcome wrong = streams_step(&inner)) return wrong;
    run_team(decoder_workers(plan, step), decoder_worker, const_cast<holdfast_decoder_step *>(step));
    return DONE;
}

static Outcome decoder_advance(const holdfast_decoder_step *step)
{
    DecoderPlan &plan = *static_cast<DecoderPlan *>(step->decoder->memory);
    if (__atomic_exchange_n(&plan.busy, 1, __ATOMIC_ACQUIRE)) return BUSY;
    const Outcome outcome = advance_alone(step, plan);
    __atomic_store_n(&plan.busy, 0, __ATOMIC_RELEASE);
    return outcome;
}

#endif

// stream_plan.h: where the weights, states and scratch of streams stand in the caller's memory, and packing.
#ifndef HOLDFAST_STREAM_PLAN_H
#define HOLDFAST_STREAM_PLAN_H

#include "dots.h"
#include "pack.h"
#include "threads.h"

enum : Index {
    STREAM_ROWS = 96, // in a chunk: its inputs and states stay in the second-level cache
    OPEN = 1,
    STEPPING = 2, // in holdfast_streams' `open`, while a step is on its way
};

struct StreamLayer {
    Index features;
    Index x_words, input_words; // h begins after x, in words
    Matrix gates[2];            // one of x and h together, or for scaled precisions one each
    Index products;
    float *bias;       // [blocks][4 gates][VL]
    Matrix projection; // to h from o tanh(c), in panels of 4 VL units of h
    float *h, *c;      // [slots], h_row and c_row apart
};

// What one worker has for itself, for the rows of a chunk.
struct StreamWorker {
    Word *input;      // [rows], input_stride apart: x then h
    Word *shown_words; // [rows], shown_words_stride apart: o tanh(c), for the projection
    float *scale[2];  // [rows] of x and h; with a projection the first is that of o tanh(c) later on
    float *c;         // [rows], c_row apart
    float *shown;     // [rows], shown_row apart: o tanh(c)
    float *projected; // [rows], projected_row apart
    float *sums;      // [TILE_ROWS][4 gates][VL], or of one row [blocks][4 gates][VL]
    float **y;        // see CellRows; here the rows of `shown` once more
};

struct StreamPlan {
    const Precision *precision;
    Index blocks, width, panels; // of units; elements of h; panels of a projection, or 0
    Index h_row, c_row, input_stride, shown_row, shown_words_stride, projected_row;
    Index chunk; // rows
    double weight_bytes, flops; // of one row's step
    Index turn;  // steps so far: see there_and_back in forward.h
    Barrier barrier;
    const float *zeros; // [panels][4][VL]
    float *h, *c;       // [layers][slots], h_row and c_row apart
    StreamLayer *layers;
    StreamWorker *workers;
};

static Matrix take_matrix(Arena &arena, const Precision &as, Index words, Index panels)
{
    Matrix m = {words, words, arena.take<Word>(panels * words * BLOCK_SUMS), nullptr, nullptr};
    if (as.scaled) {
        m.offset = arena.take<int32_t>(panels * BLOCK_SUMS);
        m.scale = arena.take<float>(panels * BLOCK_SUMS);
    }
    return m;
}

static StreamLayer take_layer(Arena &arena, const StreamPlan &plan, const holdfast_streams *p, Index index)
{
    const Precision &as = *plan.precision;
    StreamLayer layer = {};
    layer.features = index ? plan.width : p->features;
    layer.x_words = pieces(layer.features, as.per_word);
    layer.input_words = layer.x_words + pieces(plan.width, as.per_word);
    layer.products = as.scaled ? 2 : 1;
    layer.gates[0] = take_matrix(arena, as, layer.input_words, plan.blocks);
    if (as.scaled) {
        // Both stand in the panels of [x | h]; offsets and scales they have one each.
        layer.gates[1] = layer.gates[0];
        layer.gates[0].words = layer.x_words;
        layer.gates[1].words = layer.input_words - layer.x_words;
        layer.gates[1].packed += layer.x_words * BLOCK_SUMS;
        layer.gates[1].offset = arena.take<int32_t>(plan.blocks * BLOCK_SUMS);
        layer.gates[1].scale = arena.take<float>(plan.blocks * BLOCK_SUMS);
    }
    layer.bias = arena.take<float>(plan.blocks * BLOCK_SUMS);
    layer.projection = take_matrix(arena, as, pieces(p->units, as.per_word), plan.panels);
    layer.h = plan.h + index * p->slots * plan.h_row;
    layer.c = plan.c + index * p->slots * plan.c_row;
    return layer;
}

static StreamWorker take_worker(Arena &arena, const StreamPlan &plan)
{
    StreamWorker own = {};
    own.input = arena.take<Word>(plan.chunk * plan.input_stride);
    own.shown_words = arena.take<Word>(plan.panels ? plan.chunk * plan.shown_words_stride : 0);
    for (float *&scale : own.scale) scale = arena.take<float>(plan.chunk);
    own.c = arena.take<float>(plan.chunk * plan.c_row);
    own.shown = arena.take<float>(plan.chunk * plan.shown_row);
    own.projected = arena.take<float>(plan.panels ? plan.chunk * plan.projected_row : 0);
    own.sums = arena.take<float>(largest_index(TILE_ROWS, plan.blocks) * BLOCK_SUMS);
    own.y = arena.take<float *>(largest_index(plan.chunk, plan.blocks));
    return own;
}

// Cuts the memory up; with base = nullptr it only counts. Returns the bytes; `at` is where the plan itself stands.
static Index lay_out(const holdfast_streams *p, char *base, StreamPlan **at)
{
    Arena arena = {base, 0};
    *at = arena.take<StreamPlan>(1);
    StreamPlan plan = {};
    const Precision &as = precisions[p->precision];
    plan.precision = &as;
    plan.blocks = pieces(p->units, VL);
    plan.width = p->projection ? p->projection : p->units;
    plan.panels = pieces(p->projection, BLOCK_SUMS);
    const Index widest = largest_index(p->features, plan.width);
    plan.h_row = round_up(plan.width, 16);
    plan.c_row = row_stride(plan.blocks * VL);
    plan.input_stride = row_stride(pieces(widest, as.per_word) + pieces(plan.width, as.per_word));
    plan.shown_row = row_stride(plan.blocks * VL);
    plan.shown_words_stride = row_stride(pieces(p->units, as.per_word));
    plan.projected_row = row_stride(plan.panels * BLOCK_SUMS);
    plan.chunk = least_index(STREAM_ROWS, p->slots);
    plan.zeros = arena.take<float>(plan.panels * BLOCK_SUMS);
    plan.h = arena.take<float>(p->layers * p->slots * plan.h_row);
    plan.c = arena.take<float>(p->layers * p->slots * plan.c_row);
    plan.layers = arena.take<StreamLayer>(p->layers);
    plan.workers = arena.take<StreamWorker>(p->threads);
    double weights = 0;
    for (Index n = 0; n < p->layers; ++n) {
        const StreamLayer layer = take_layer(arena, plan, p, n);
        if (base) plan.layers[n] = layer;
        weights += static_cast<double>(p->units) * (GATES * (layer.features + plan.width) + p->projection);
    }
    plan.flops = 2 * weights;
    plan.weight_bytes = 4 * weights / static_cast<double>(as.per_word);
    for (Index n = 0; n < p->threads; ++n) {
        const StreamWorker own = take_worker(arena, plan);
        if (base) plan.workers[n] = own;
    }
    if (base) **at = plan;
    return arena.used;
}

static Index streams_bytes(const holdfast_streams *p)
{
    StreamPlan *plan;
    return lay_out(p, nullptr, &plan);
}

static void streams_lay_out(holdfast_streams *p)
{
    memset(p->memory, 0, static_cast<size_t>(streams_bytes(p)));
    StreamPlan *plan;
    lay_out(p, static_cast<char *>(p->memory), &plan);
    p->h = plan->h;
    p->c = plan->c;
    p->h_row = plan->h_row;
    p->c_row = plan->c_row;
}

static void streams_pack(const holdfast_streams *p, Index index, const holdfast_stream_weights *from)
{
    const StreamPlan &plan = *static_cast<const StreamPlan *>(p->memory);
    const Precision &as = *plan.precision;
    const StreamLayer &layer = plan.layers[index];
    const Index units = p->units;
    const auto gate_row = [=](Index panel, Index n) { return weight_row(panel * BLOCK_SUMS + n, units); };
    Matrix x = layer.gates[0], h = layer.gates[layer.products - 1];
    x.words = layer.x_words;
    if (!as.scaled) h.packed += layer.x_words * BLOCK_SUMS;
    h.words = layer.input_words - layer.x_words;
    pack_matrix(x, as, from->w_input, layer.features, plan.blocks, gate_row);
    pack_matrix(h, as, from->w_recurrent, plan.width, plan.blocks, gate_row);
    for (Index k = 0; k < plan.blocks * BLOCK_SUMS; ++k) {
        const Index row = weight_row(k, units);
        layer.bias[k] = from->bias && row >= 0 ? from->bias[row] : 0.0f;
    }
    pack_matrix(layer.projection, as, from->projection, units, plan.panels, [&](Index panel, Index n) {
        const Index row = panel * BLOCK_SUMS + n;
        return row < plan.width ? row : -1;
    });
}

#endif

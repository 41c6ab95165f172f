// stream_plan.h: where the weights, states and scratch of streams stand in the caller's memory, and packing.
#ifndef HOLDFAST_STREAM_PLAN_H
#define HOLDFAST_STREAM_PLAN_H

#include "dots.h"
#include "normalise.h"
#include "pack.h"
#include "threads.h"

enum : Index {
    STREAM_ROWS = 96, // in a chunk: its inputs and states stay in the second-level cache
    OPEN = 1,
    STEPPING = 2, // in holdfast_streams' `open`, while a step is on its way
};

struct StreamLayer {
    Index features, units, width; // of x, of c, of h
    Index blocks;                 // of units
    Index panels;                 // of the projection, or 0
    Index skip_panels;            // of the connection's outputs, or 0
    Index x_words, input_words;   // h begins after x, in words
    Matrix gates[2]; // one of x and h together; one each for scaled precisions, and where their sums are normalised
    Index products;
    float *bias;               // [blocks][4 gates][VL]
    Matrix projection;         // to h from o tanh(c), in panels of 4 VL units of h
    Matrix reshape, transform; // of the connection, from x, in panels of 4 VL of its outputs
    float *transform_bias;     // [skip_panels][4][VL]
    float *h, *c;              // [slots], h_row and c_row apart
    float *out;                // [slots], h_row apart: what the layer above reads; h, but for a connection
    Index memories, memory_stride; // of c: one or three, and how far apart in a row
    Index connection;
    bool normalised;
    bool keeps_h;       // h of the step before goes into that of this one
    ForwardCells cells; // nullptr: the plain cell's
    Variant variant;    // whose p is `as_one`
    holdfast_lstm as_one; // the layer as variants.h knows layers
    holdfast_cell cell;
};

// What one worker has for itself, for the rows of a chunk.
struct StreamWorker {
    Word *input;       // [rows], input_stride apart: x then h
    Word *shown_words; // [rows], shown_words_stride apart: o tanh(c), for the projection
    float *scale[3];   // [rows] of x, h and o tanh(c)
    float *c;          // [rows], c_row apart
    float *h_before;   // [rows], c_row apart, where a layer keeps h
    float *shown;      // [rows], shown_row apart: o tanh(c)
    float *projected;  // [rows], projected_row apart
    float *sums;       // [TILE_ROWS][4 gates][VL], or of one row [blocks][4 gates][VL]; normalised both
    float *x_sums;     // [TILE_ROWS][blocks][4 gates][VL], where a layer is normalised
    float *carried;    // [TILE_ROWS][4][VL] S x and T x, where a layer has a connection
    float *transform;
    float **y; // see CellRows; here the rows of `shown` once more
};

struct StreamPlan {
    const Precision *precision;
    Index h_row, c_row, input_stride, shown_row, shown_words_stride, projected_row; // of the widest layer
    Index blocks; // of the layer with the most
    Index width;  // of what the top layer shows
    bool any_normalised, any_keeps_h, any_connection;
    Index chunk;                // rows
    double weight_bytes, flops; // of one row's step
    Index turn; // steps so far: see there_and_back in forward.h
    Barrier barrier;
    const float *zeros; // [PANELS_AT_ONCE][4][VL]
    const Index *nobody; // [TILE_ROWS] zeros: the rows of a batch that cells ask for when they draw, which these do not
    float *h, *c; // [layers][slots], h_row and c_row apart
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

// Sizes of a layer that follow from its shape.
static StreamLayer shape_of(const holdfast_streams *p, Index index, const Precision &as)
{
    const holdfast_stream_layer &shape = p->shapes[index];
    const auto width = [=](Index n) { return p->shapes[n].projection ? p->shapes[n].projection : p->shapes[n].units; };
    StreamLayer layer = {};
    layer.features = index ? width(index - 1) : p->features;
    layer.units = shape.units;
    layer.width = width(index);
    layer.blocks = pieces(shape.units, VL);
    layer.panels = pieces(shape.projection, BLOCK_SUMS);
    layer.connection = shape.connection;
    layer.skip_panels = shape.connection ? pieces(layer.width, BLOCK_SUMS) : 0;
    layer.x_words = pieces(layer.features, as.per_word);
    layer.input_words = layer.x_words + pieces(layer.width, as.per_word);
    layer.normalised = shape.kind & HOLDFAST_NORMALISED;
    layer.keeps_h = shape.zoneout_h > 0.0f;
    layer.products = as.scaled || layer.normalised ? 2 : 1;
    layer.memories = shape.kind & HOLDFAST_EXPONENTIAL ? 3 : 1;
    layer.memory_stride = round_up(shape.units, 16);
    return layer;
}

static bool is_plain(const holdfast_stream_layer &shape)
{
    return !shape.kind && !(shape.zoneout_h > 0.0f) && !(shape.zoneout_c > 0.0f);
}

// The layer as the cells of variants.h know it. What points into the layer itself waits until it has its place.
static void take_variant(Arena &arena, StreamLayer &layer, const holdfast_stream_layer &shape)
{
    layer.cell.kind = shape.kind;
    layer.cell.zoneout_h = shape.zoneout_h;
    layer.cell.zoneout_c = shape.zoneout_c;
    layer.cell.epsilon = shape.epsilon;
    layer.as_one.units = shape.units;
    layer.as_one.cell = &layer.cell;
    layer.variant.p = &layer.as_one;
    layer.variant.memory_stride = layer.memory_stride;
    if (!is_plain(shape)) layer.cells = cells_for(&layer.as_one).forward;
    if (shape.kind & HOLDFAST_PEEPHOLE) layer.variant.peephole = arena.take<float>(layer.blocks * 3 * VL);
    plan_norms(layer.variant, arena);
}

static void take_layer(Arena &arena, const StreamPlan &plan, const holdfast_streams *p, Index index, StreamLayer &layer)
{
    const Precision &as = *plan.precision;
    layer = shape_of(p, index, as);
    layer.gates[0] = take_matrix(arena, as, layer.input_words, layer.blocks);
    if (layer.products > 1) {
        // Both stand in the panels of [x | h]; offsets and scales they have one each.
        layer.gates[1] = layer.gates[0];
        layer.gates[0].words = layer.x_words;
        layer.gates[1].words = layer.input_words - layer.x_words;
        layer.gates[1].packed += layer.x_words * BLOCK_SUMS;
    }
    if (as.scaled) {
        layer.gates[1].offset = arena.take<int32_t>(layer.blocks * BLOCK_SUMS);
        layer.gates[1].scale = arena.take<float>(layer.blocks * BLOCK_SUMS);
    }
    layer.bias = arena.take<float>(layer.blocks * BLOCK_SUMS);
    layer.projection = take_matrix(arena, as, pieces(layer.units, as.per_word), layer.panels);
    layer.h = plan.h + index * p->slots * plan.h_row;
    layer.c = plan.c + index * p->slots * plan.c_row;
    layer.out = layer.h;
    take_variant(arena, layer, p->shapes[index]);
    if (!layer.connection) return;
    layer.out = arena.take<float>(p->slots * plan.h_row);
    if (layer.features != layer.width) layer.reshape = take_matrix(arena, as, layer.x_words, layer.skip_panels);
    if (layer.connection != HOLDFAST_HIGHWAY) return;
    layer.transform = take_matrix(arena, as, layer.x_words, layer.skip_panels);
    layer.transform_bias = arena.take<float>(layer.skip_panels * BLOCK_SUMS);
}

static StreamWorker take_worker(Arena &arena, const StreamPlan &plan)
{
    StreamWorker own = {};
    const Index all = TILE_ROWS * plan.blocks * BLOCK_SUMS;
    const Index sums = plan.any_normalised ? all : largest_index(TILE_ROWS, plan.blocks) * BLOCK_SUMS;
    own.input = arena.take<Word>(plan.chunk * plan.input_stride);
    own.shown_words = arena.take<Word>(plan.projected_row ? plan.chunk * plan.shown_words_stride : 0);
    for (float *&scale : own.scale) scale = arena.take<float>(plan.chunk);
    own.c = arena.take<float>(plan.chunk * plan.c_row);
    own.h_before = arena.take<float>(plan.any_keeps_h ? plan.chunk * plan.c_row : 0);
    own.shown = arena.take<float>(plan.chunk * plan.shown_row);
    own.projected = arena.take<float>(plan.chunk * plan.projected_row);
    own.sums = arena.take<float>(sums);
    own.x_sums = arena.take<float>(plan.any_normalised ? all : 0);
    own.carried = arena.take<float>(plan.any_connection ? TILE_ROWS * BLOCK_SUMS : 0);
    own.transform = arena.take<float>(plan.any_connection ? TILE_ROWS * BLOCK_SUMS : 0);
    own.y = arena.take<float *>(largest_index(plan.chunk, plan.blocks));
    return own;
}

// Rows are as long as those of the widest layer.
static StreamPlan measure(const holdfast_streams *p)
{
    StreamPlan plan = {};
    plan.precision = &precisions[p->precision];
    Index width = 0, c = 0, input = 0, units = 0, panels = 0;
    double weights = 0;
    for (Index n = 0; n < p->layers; ++n) {
        const StreamLayer layer = shape_of(p, n, *plan.precision);
        width = largest_index(width, layer.width);
        c = largest_index(c, layer.memories * layer.memory_stride);
        input = largest_index(input, layer.input_words);
        units = largest_index(units, layer.units);
        panels = largest_index(panels, layer.panels);
        plan.any_normalised |= layer.normalised;
        plan.any_keeps_h |= layer.keeps_h;
        plan.any_connection |= layer.connection != HOLDFAST_PLAIN;
        plan.width = layer.width;
        const Index reshape = layer.connection && layer.features != layer.width ? layer.width : 0;
        const Index transform = layer.connection == HOLDFAST_HIGHWAY ? layer.width : 0;
        const Index all = GATES * (layer.features + layer.width) + p->shapes[n].projection;
        weights += static_cast<double>(layer.units * all + layer.features * (reshape + transform));
    }
    plan.blocks = pieces(units, VL);
    plan.h_row = round_up(width, 16);
    plan.c_row = row_stride(c);
    plan.input_stride = row_stride(input);
    plan.shown_row = row_stride(plan.blocks * VL);
    plan.shown_words_stride = row_stride(pieces(units, plan.precision->per_word));
    plan.projected_row = panels ? row_stride(panels * BLOCK_SUMS) : 0;
    plan.chunk = least_index(STREAM_ROWS, p->slots);
    plan.flops = 2 * weights;
    plan.weight_bytes = 4 * weights / static_cast<double>(plan.precision->per_word);
    return plan;
}

// Cuts the memory up; with base = nullptr it only counts. Returns the bytes; `at` is where the plan itself stands.
static Index lay_out(const holdfast_streams *p, char *base, StreamPlan **at)
{
    Arena arena = {base, 0};
    *at = arena.take<StreamPlan>(1);
    StreamPlan plan = measure(p);
    plan.zeros = arena.take<float>(PANELS_AT_ONCE * BLOCK_SUMS);
    plan.nobody = arena.take<Index>(TILE_ROWS);
    plan.h = arena.take<float>(p->layers * p->slots * plan.h_row);
    plan.c = arena.take<float>(p->layers * p->slots * plan.c_row);
    plan.layers = arena.take<StreamLayer>(p->layers);
    plan.workers = arena.take<StreamWorker>(p->threads);
    for (Index n = 0; n < p->layers; ++n) {
        StreamLayer counted;
        take_layer(arena, plan, p, n, base ? plan.layers[n] : counted);
    }
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

static void pack_variant(StreamLayer &layer, const holdfast_stream_weights *from)
{
    layer.cell.peephole = from->peephole;
    layer.cell.gain_x = from->gain_x;
    layer.cell.gain_h = from->gain_h;
    layer.cell.gain_c = from->gain_c;
    layer.cell.bias_c = from->bias_c;
    if (layer.variant.peephole) pack_peephole(layer.variant.peephole, &layer.as_one, 0, layer.blocks);
    if (layer.normalised) pack_norms(layer.variant, 0, layer.blocks);
}

static Outcome streams_pack(const holdfast_streams *p, Index index, const holdfast_stream_weights *from)
{
    const StreamPlan &plan = *static_cast<const StreamPlan *>(p->memory);
    const Precision &as = *plan.precision;
    StreamLayer &layer = plan.layers[index];
    const Index units = layer.units, width = layer.width;
    if (layer.reshape.packed && !from->reshape) return MISSING_BUFFER;
    const auto gate_row = [=](Index panel, Index n) { return weight_row(panel * BLOCK_SUMS + n, units); };
    const auto h_row = [=](Index panel, Index n) {
        const Index row = panel * BLOCK_SUMS + n;
        return row < width ? row : -1;
    };
    Matrix x = layer.gates[0], h = layer.gates[layer.products - 1];
    x.words = layer.x_words;
    if (layer.products == 1) h.packed += layer.x_words * BLOCK_SUMS;
    h.words = layer.input_words - layer.x_words;
    pack_matrix(x, as, from->w_input, layer.features, layer.blocks, gate_row);
    pack_matrix(h, as, from->w_recurrent, width, layer.blocks, gate_row);
    for (Index k = 0; k < layer.blocks * BLOCK_SUMS; ++k) {
        const Index row = weight_row(k, units);
        layer.bias[k] = from->bias && row >= 0 ? from->bias[row] : 0.0f;
    }
    pack_matrix(layer.projection, as, from->projection, units, layer.panels, h_row);
    if (layer.reshape.packed) pack_matrix(layer.reshape, as, from->reshape, layer.features, layer.skip_panels, h_row);
    if (layer.transform.packed) {
        pack_matrix(layer.transform, as, from->transform, layer.features, layer.skip_panels, h_row);
        memcpy(layer.transform_bias, from->transform_bias, sizeof(float) * static_cast<size_t>(width));
    }
    pack_variant(layer, from);
    return DONE;
}

#endif

// count.cc: one call of one entry on made-up numbers, for `valgrind --tool=callgrind` to count its instructions
// (benchmarks/engine_instructions.py). No part of the library: it is linked with it, as any user of the ABI would be.
#include "holdfast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

struct Size {
    int64_t steps, rows, features, units;
};

// Numbers in -0.5..0.5 that are the same everywhere.
float *numbers(int64_t count)
{
    float *made = static_cast<float *>(malloc(sizeof(float) * static_cast<size_t>(count)));
    uint32_t word = 1;
    for (int64_t k = 0; k < count; ++k) {
        word = word * 1664525u + 1013904223u;
        made[k] = static_cast<float>(word >> 8) / 16777216.0f - 0.5f;
    }
    return made;
}

void *aligned(int64_t bytes)
{
    return aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64));
}

holdfast_lstm layer_of(const Size &s, bool training)
{
    holdfast_lstm p = {};
    p.steps = s.steps, p.rows = s.rows, p.features = s.features, p.units = s.units, p.threads = 1;
    p.x = numbers(s.steps * s.rows * s.features), p.x_step = s.rows * s.features, p.x_row = s.features;
    p.w_input = numbers(4 * s.units * s.features), p.w_recurrent = numbers(4 * s.units * s.units);
    p.bias = numbers(4 * s.units);
    p.y = numbers(s.steps * s.rows * s.units), p.y_step = s.rows * s.units, p.y_row = s.units;
    p.h_last = numbers(s.rows * s.units), p.c_last = numbers(s.rows * s.units);
    if (training) p.kept = static_cast<float *>(aligned(4 * holdfast_kept_floats(&p)));
    p.scratch = aligned(holdfast_scratch_bytes(&p, 0));
    return p;
}

int64_t forward(const Size &s, bool training)
{
    const holdfast_lstm p = layer_of(s, training);
    return holdfast_lstm_forward(&p);
}

int64_t backward(const Size &s)
{
    holdfast_lstm p = layer_of(s, true);
    const int64_t failed = holdfast_lstm_forward(&p);
    p.scratch = aligned(holdfast_scratch_bytes(&p, 1));
    holdfast_lstm_gradients g = {};
    g.dy = numbers(s.steps * s.rows * s.units), g.dy_step = p.y_step, g.dy_row = p.y_row;
    g.dx = numbers(s.steps * s.rows * s.features), g.dx_step = p.x_step, g.dx_row = p.x_row;
    g.dw_input = numbers(4 * s.units * s.features), g.dw_recurrent = numbers(4 * s.units * s.units);
    g.dbias = numbers(4 * s.units);
    g.dh0 = numbers(s.rows * s.units), g.dc0 = numbers(s.rows * s.units);
    return failed ? failed : holdfast_lstm_backward(&p, &g);
}

// One step of `rows` streams out of as many.
int64_t stream(const Size &s, int64_t precision)
{
    holdfast_stream_layer shape = {};
    shape.units = s.units;
    holdfast_streams p = {};
    p.layers = 1, p.features = s.features, p.shapes = &shape, p.slots = s.rows, p.precision = precision, p.threads = 1;
    p.memory = aligned(holdfast_streams_bytes(&p));
    p.open = static_cast<unsigned char *>(malloc(static_cast<size_t>(s.rows)));
    memset(p.open, 1, static_cast<size_t>(s.rows));
    holdfast_streams_lay_out(&p);
    const holdfast_stream_weights weights = {numbers(4 * s.units * s.features), numbers(4 * s.units * s.units),
                                             numbers(4 * s.units), nullptr};
    holdfast_streams_pack(&p, 0, &weights);
    const holdfast_step step = {&p, s.rows, numbers(s.rows * s.features), s.features, nullptr,
                                numbers(s.rows * s.units)};
    return holdfast_streams_step(&step);
}

// `units` stands for the vocabulary.
int64_t softmax(const Size &s)
{
    holdfast_softmax p = {};
    p.tokens = s.steps * s.rows, p.width = s.features, p.vocabulary = s.units, p.threads = 1, p.scale = 1.0f;
    p.h = numbers(p.tokens * p.width), p.weight = numbers(p.vocabulary * p.width), p.bias = numbers(p.vocabulary);
    int64_t *targets = static_cast<int64_t *>(aligned(8 * p.tokens));
    for (int64_t n = 0; n < p.tokens; ++n) targets[n] = n % p.vocabulary;
    p.targets = targets, p.facts = numbers(4 * p.tokens);
    p.dh = numbers(p.tokens * p.width), p.dweight = numbers(p.vocabulary * p.width), p.dbias = numbers(p.vocabulary);
    p.scratch = aligned(holdfast_softmax_scratch_bytes(&p));
    return holdfast_softmax_cross_entropy(&p);
}

} // namespace

int main(int count, char **words)
{
    if (count != 6) {
        fprintf(stderr, "count forward|inference|backward|stream|stream-int8|softmax STEPS ROWS FEATURES UNITS\n");
        return 2;
    }
    const Size s = {atoll(words[2]), atoll(words[3]), atoll(words[4]), atoll(words[5])};
    if (!strcmp(words[1], "forward")) return forward(s, true) != 0;
    if (!strcmp(words[1], "inference")) return forward(s, false) != 0;
    if (!strcmp(words[1], "backward")) return backward(s) != 0;
    if (!strcmp(words[1], "stream")) return stream(s, HOLDFAST_FLOAT32) != 0;
    if (!strcmp(words[1], "stream-int8")) return stream(s, HOLDFAST_INT8) != 0;
    if (!strcmp(words[1], "softmax")) return softmax(s) != 0;
    return 2;
}

// engine.h: what one instruction set's build of the engine offers to dispatch.cc.
#ifndef HOLDFAST_ENGINE_H
#define HOLDFAST_ENGINE_H

#include "holdfast.h"

typedef int64_t Index;

enum Outcome : Index {
    DONE = 0,
    BAD_SIZE = 1,
    BAD_LENGTH = 2,
    OTHER_KEPT = 3,
    MISSING_BUFFER = 4,
    BAD_CELL = 5,
    BAD_SLOT = 6,
    BUSY = 7,
    BAD_TARGET = 8,
    BAD_SOURCE = 9
};

struct Engine {
    const char *name;
    Index (*kept_floats)(const holdfast_lstm *);
    Index (*scratch_bytes)(const holdfast_lstm *, bool backward);
    Outcome (*forward)(const holdfast_lstm *);
    Outcome (*backward)(const holdfast_lstm *, const holdfast_lstm_gradients *);
    Index (*burn)(Index rounds, Index threads, Index precision);
    bool (*is_right)(); // whether this CPU does what the kernels expect of it: asked where they have not been tried
    Index (*read)(const float *from, Index floats, Index rounds);
    Index (*streams_bytes)(const holdfast_streams *);
    void (*streams_lay_out)(holdfast_streams *);
    Outcome (*streams_pack)(const holdfast_streams *, Index layer, const holdfast_stream_weights *);
    Outcome (*streams_step)(const holdfast_step *);
    Index (*softmax_scratch_bytes)(const holdfast_softmax *);
    Outcome (*softmax_cross_entropy)(const holdfast_softmax *);
    Index (*decoder_bytes)(const holdfast_decoder *);
    void (*decoder_lay_out)(const holdfast_decoder *);
    void (*decoder_pack)(const holdfast_decoder *, const holdfast_decoder_weights *);
    Outcome (*decoder_advance)(const holdfast_decoder_step *);
    Index (*matrix_bytes)(const holdfast_matrix *);
    void (*matrix_pack)(const holdfast_matrix *, const float *from, bool turned);
    Index (*product_scratch_bytes)(const holdfast_product *);
    void (*product_make)(const holdfast_product *);
};

// Aggregates of constants: nothing runs when the library is loaded. Which of them exist is CMake's business.
#ifdef HOLDFAST_X86
#ifdef HOLDFAST_HAS_AMX
extern const Engine engine_amx, engine_amx_emulated;
#endif
extern const Engine engine_avx512bf16, engine_avx512vnni, engine_avx512, engine_avx2;
#endif
extern const Engine engine_generic;

#endif

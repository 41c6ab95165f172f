// engine.cc: the engine for one instruction set. CMake compiles this file once per set, with that set's flags and with
// HOLDFAST_ENGINE naming the result. Everything but that one symbol is internal, and no template of the standard library
// is used: otherwise the linker might pick AVX-512 code for a function that an older CPU calls too.
#include "backward.h"
#include "forward.h"

static Index scratch_bytes(const holdfast_lstm *p, bool backwards)
{
    Forward f;
    Backward b;
    return backwards ? plan_backward(b, p, nullptr) : plan_forward(f, p, nullptr);
}

#define HOLDFAST_TEXT(word) #word
#define HOLDFAST_NAME(word) HOLDFAST_TEXT(word)
#define HOLDFAST_JOINED(word) engine_##word
#define HOLDFAST_SYMBOL(word) HOLDFAST_JOINED(word)

const Engine HOLDFAST_SYMBOL(HOLDFAST_ENGINE) = {HOLDFAST_NAME(HOLDFAST_ENGINE), kept_floats, scratch_bytes, forward, backward};

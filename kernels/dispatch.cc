// dispatch.cc: the C ABI of holdfast.h; picks the instruction set and hands the call on.
#include "engine.h"

#include <stdlib.h>
#include <string.h>
#if defined(HOLDFAST_HAS_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace
{

#ifdef HOLDFAST_X86
#include <cpuid.h>

// The registers must not only exist (cpuid) but be saved by the operating system (xgetbv).
unsigned long long saved_registers()
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | static_cast<unsigned long long>(high) << 32;
}

bool cpu_has_avx2()
{
    unsigned a, b, c, d;
    if ((saved_registers() & 0x6) != 0x6) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_FMA)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

bool cpu_has_avx512()
{
    unsigned a, b, c, d;
    if ((saved_registers() & 0xe6) != 0xe6 || !cpu_has_avx2()) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned needed = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    return (b & needed) == needed;
}

bool cpu_has_avx512vnni()
{
    unsigned a, b, c, d;
    return cpu_has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_AVX512VNNI);
}

bool cpu_has_avx512bf16()
{
    unsigned a, b, c, d;
    return cpu_has_avx512vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit_AVX512BF16);
}
#endif

#ifdef HOLDFAST_HAS_AMX
// Linux hands out the registers of AMX, 8 KB a thread, to processes that ask for them.
bool tiles_are_granted()
{
#ifdef __linux__
    const long request_permission = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

bool cpu_has_amx()
{
    unsigned a, b, c, d;
    const unsigned long long tile_registers = 3ull << 17;
    const unsigned needed = 1u << 24 | 1u << 22; // AMX-TILE, AMX-BF16
    if (!cpu_has_avx512bf16() || (saved_registers() & tile_registers) != tile_registers) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & needed) == needed && tiles_are_granted();
}
#endif

const Engine *engine_called(const char *name)
{
    if (!name) return nullptr;
#ifdef HOLDFAST_HAS_AMX
    if (!strcmp(name, "amx")) return cpu_has_amx() && engine_amx.is_right() ? &engine_amx : nullptr;
    if (!strcmp(name, "amx_emulated")) return cpu_has_avx512bf16() ? &engine_amx_emulated : nullptr;
#endif
#ifdef HOLDFAST_X86
    if (!strcmp(name, "avx512bf16")) return cpu_has_avx512bf16() ? &engine_avx512bf16 : nullptr;
    if (!strcmp(name, "avx512vnni")) return cpu_has_avx512vnni() ? &engine_avx512vnni : nullptr;
    if (!strcmp(name, "avx512")) return cpu_has_avx512() ? &engine_avx512 : nullptr;
    if (!strcmp(name, "avx2")) return cpu_has_avx2() ? &engine_avx2 : nullptr;
#endif
    return strcmp(name, "generic") ? nullptr : &engine_generic;
}

const Engine *best_engine()
{
    const char *const order[] = {getenv("HOLDFAST_ISA"), "amx", "avx512bf16", "avx512vnni", "avx512", "avx2"};
    for (const char *name : order)
        if (const Engine *engine = engine_called(name)) return engine;
    return &engine_generic;
}

const Engine *chosen;

// Two threads may both choose at first use: they choose the same.
const Engine *engine()
{
    const Engine *now = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
    if (!now) {
        now = best_engine();
        __atomic_store_n(&chosen, now, __ATOMIC_RELEASE);
    }
    return now;
}

bool probable(float p)
{
    return p >= 0.0f && p <= 1.0f;
}

Outcome examine_cell(const holdfast_cell *cell)
{
    if (!cell) return DONE;
    const bool exponential = cell->kind & HOLDFAST_EXPONENTIAL, peephole = cell->kind & HOLDFAST_PEEPHOLE;
    const bool normalised = cell->kind & HOLDFAST_NORMALISED;
    const bool zoneout = cell->zoneout_h > 0.0f || cell->zoneout_c > 0.0f;
    if (cell->kind & ~static_cast<int64_t>(15) || !probable(cell->zoneout_h) || !probable(cell->zoneout_c))
        return BAD_CELL;
    if (exponential && (cell->kind != HOLDFAST_EXPONENTIAL || zoneout)) return BAD_CELL;
    if (normalised && (cell->kind != HOLDFAST_NORMALISED || zoneout)) return BAD_CELL;
    if (normalised && (!cell->gain_x || !cell->gain_h || !cell->gain_c || !cell->bias_c)) return MISSING_BUFFER;
    if (cell->projection && (cell->projected < 1 || cell->zoneout_h > 0.0f)) return BAD_CELL;
    return peephole && !cell->peephole ? MISSING_BUFFER : DONE;
}

Outcome examine(const holdfast_lstm *p)
{
    if (!p || p->steps < 0 || p->rows < 0 || p->features < 1 || p->units < 1) return BAD_SIZE;
    if (const Outcome wrong = examine_cell(p->cell)) return wrong;
    for (Index row = 0; p->lengths && row < p->rows; ++row)
        if (p->lengths[row] < 0 || p->lengths[row] > p->steps) return BAD_LENGTH;
    const bool empty = p->steps == 0 || p->rows == 0;
    const bool normalised = p->cell && (p->cell->kind & HOLDFAST_NORMALISED);
    if (!p->w_input && p->features != 4 * p->units) return BAD_SIZE;
    if (normalised && !p->w_input) return MISSING_BUFFER;
    if (!p->w_recurrent || !p->scratch) return MISSING_BUFFER;
    if (!empty && (!p->x || !p->y)) return MISSING_BUFFER;
    return DONE;
}

// Beyond LARGEST_INT8 elements a sum of int8 products might leave 32 bits.
enum : Index { LARGEST_INT8 = 65536 };

Outcome examine(const holdfast_stream_layer &layer, Index precision)
{
    if (layer.units < 1 || layer.projection < 0) return BAD_SIZE;
    if (precision == HOLDFAST_INT8 && layer.units > LARGEST_INT8) return BAD_SIZE;
    if (layer.connection < HOLDFAST_PLAIN || layer.connection > HOLDFAST_HIGHWAY) return BAD_CELL;
    const float *given = &layer.epsilon; // weights come later
    holdfast_cell cell = {};
    cell.kind = layer.kind;
    cell.zoneout_h = layer.zoneout_h;
    cell.zoneout_c = layer.zoneout_c;
    cell.projection = layer.projection ? given : nullptr;
    cell.projected = layer.projection;
    cell.peephole = cell.gain_x = cell.gain_h = cell.gain_c = cell.bias_c = given;
    return examine_cell(&cell);
}

Outcome examine(const holdfast_streams *p)
{
    if (!p || p->layers < 1 || p->features < 1 || p->slots < 1 || !p->shapes) return BAD_SIZE;
    if (p->threads < 1 || p->precision < HOLDFAST_FLOAT32 || p->precision > HOLDFAST_INT8) return BAD_SIZE;
    if (p->precision == HOLDFAST_INT8 && p->features > LARGEST_INT8) return BAD_SIZE;
    for (Index n = 0; n < p->layers; ++n)
        if (const Outcome wrong = examine(p->shapes[n], p->precision)) return wrong;
    return DONE;
}

bool all_given(const holdfast_stream_layer &layer, const holdfast_stream_weights &from)
{
    const bool normalised = layer.kind & HOLDFAST_NORMALISED, peephole = layer.kind & HOLDFAST_PEEPHOLE;
    if (!from.w_input || !from.w_recurrent || !from.projection != !layer.projection) return false;
    if (normalised && (!from.gain_x || !from.gain_h || !from.gain_c || !from.bias_c)) return false;
    if (layer.connection == HOLDFAST_HIGHWAY && (!from.transform || !from.transform_bias)) return false;
    return !peephole || from.peephole;
}

Outcome examine(const holdfast_softmax *p)
{
    if (!p || p->tokens < 0 || p->width < 1 || p->vocabulary < 1) return BAD_SIZE;
    if (p->tokens == 0) return DONE;
    if (!p->h || !p->weight || !p->targets || !p->facts || !p->scratch) return MISSING_BUFFER;
    for (Index n = 0; n < p->tokens; ++n)
        if (p->targets[n] < (p->beside ? -1 : 0) || p->targets[n] >= p->vocabulary) return BAD_TARGET;
    return DONE;
}

const Engine *engine_of(const holdfast_streams *p)
{
    return static_cast<const Engine *>(p->engine);
}

Outcome examine(const holdfast_decoder *p)
{
    if (!p || !p->streams || !p->streams->memory || !p->streams->engine) return MISSING_BUFFER;
    if (p->embedded < 1 || p->remembered < 1 || p->combined < 1 || p->vocabulary < 1) return BAD_SIZE;
    const holdfast_stream_layer &top = p->streams->shapes[p->streams->layers - 1];
    const Index joined = p->remembered + (top.projection ? top.projection : top.units);
    const bool too_wide = joined > LARGEST_INT8 || p->combined > LARGEST_INT8;
    if (p->streams->precision == HOLDFAST_INT8 && too_wide) return BAD_SIZE;
    return p->streams->features == p->embedded + p->combined ? DONE : BAD_SIZE;
}

} // namespace

extern "C" {

int64_t holdfast_abi(void)
{
    return HOLDFAST_ABI;
}

int64_t holdfast_kept_floats(const holdfast_lstm *p)
{
    return engine()->kept_floats(p);
}

int64_t holdfast_scratch_bytes(const holdfast_lstm *p, int64_t backward)
{
    return engine()->scratch_bytes(p, backward != 0);
}

int64_t holdfast_lstm_forward(const holdfast_lstm *p)
{
    if (const Outcome wrong = examine(p)) return wrong;
    if (p->rows && (!p->h_last || !p->c_last)) return MISSING_BUFFER;
    return engine()->forward(p);
}

int64_t holdfast_lstm_backward(const holdfast_lstm *p, const holdfast_lstm_gradients *g)
{
    if (const Outcome wrong = examine(p)) return wrong;
    if (!g || !p->kept) return MISSING_BUFFER;
    const bool normalised = p->cell && (p->cell->kind & HOLDFAST_NORMALISED);
    if (normalised && (!g->dgain_x || !g->dgain_h || !g->dgain_c || !g->dbias_c)) return MISSING_BUFFER;
    return engine()->backward(p, g);
}

int64_t holdfast_streams_bytes(holdfast_streams *p)
{
    if (const Outcome wrong = examine(p)) return -wrong;
    p->engine = engine();
    return engine()->streams_bytes(p);
}

int64_t holdfast_streams_lay_out(holdfast_streams *p)
{
    if (const Outcome wrong = examine(p)) return wrong;
    if (!p->memory || !p->engine || !p->open) return MISSING_BUFFER;
    engine_of(p)->streams_lay_out(p);
    return DONE;
}

int64_t holdfast_streams_pack(holdfast_streams *p, int64_t layer, const holdfast_stream_weights *from)
{
    if (layer < 0 || layer >= p->layers) return BAD_SIZE;
    if (!all_given(p->shapes[layer], *from)) return MISSING_BUFFER;
    return engine_of(p)->streams_pack(p, layer, from);
}

int64_t holdfast_streams_step(const holdfast_step *step)
{
    if (step->rows <= 0) return step->rows ? BAD_SIZE : DONE;
    return engine_of(step->streams)->streams_step(step);
}

int64_t holdfast_softmax_scratch_bytes(const holdfast_softmax *p)
{
    return engine()->softmax_scratch_bytes(p);
}

int64_t holdfast_softmax_cross_entropy(const holdfast_softmax *p)
{
    if (const Outcome wrong = examine(p)) return wrong;
    return p->tokens ? engine()->softmax_cross_entropy(p) : DONE;
}

int64_t holdfast_decoder_bytes(const holdfast_decoder *p)
{
    if (const Outcome wrong = examine(p)) return -wrong;
    return engine_of(p->streams)->decoder_bytes(p);
}

int64_t holdfast_decoder_lay_out(const holdfast_decoder *p)
{
    if (const Outcome wrong = examine(p)) return wrong;
    if (!p->memory || !p->embedding || !p->source_of || !p->fed) return MISSING_BUFFER;
    engine_of(p->streams)->decoder_lay_out(p);
    return DONE;
}

int64_t holdfast_decoder_pack(const holdfast_decoder *p, const holdfast_decoder_weights *from)
{
    if (!from->combine || !from->output) return MISSING_BUFFER;
    engine_of(p->streams)->decoder_pack(p, from);
    return DONE;
}

int64_t holdfast_decoder_advance(const holdfast_decoder_step *step)
{
    if (step->rows < 0 || step->rows > step->decoder->streams->slots) return BAD_SIZE;
    if (!step->rows) return DONE;
    if (!step->tokens || !step->slots || !step->result || !step->alpha) return MISSING_BUFFER;
    return engine_of(step->decoder->streams)->decoder_advance(step);
}

int64_t holdfast_matrix_bytes(holdfast_matrix *p)
{
    if (p->depth < 1 || p->columns < 1) return -BAD_SIZE;
    p->engine = engine();
    return engine()->matrix_bytes(p);
}

int64_t holdfast_matrix_pack(const holdfast_matrix *p, const float *from, int64_t turned)
{
    if (!p->engine || !p->memory || !from) return MISSING_BUFFER;
    static_cast<const Engine *>(p->engine)->matrix_pack(p, from, turned != 0);
    return DONE;
}

int64_t holdfast_product_scratch_bytes(const holdfast_product *p)
{
    return static_cast<const Engine *>(p->matrix->engine)->product_scratch_bytes(p);
}

int64_t holdfast_product_make(const holdfast_product *p)
{
    if (p->rows <= 0) return p->rows ? BAD_SIZE : DONE;
    if (!p->a || !p->c || !p->scratch) return MISSING_BUFFER;
    static_cast<const Engine *>(p->matrix->engine)->product_make(p);
    return DONE;
}

int64_t holdfast_burn(int64_t rounds, int64_t threads, int64_t precision)
{
    return engine()->burn(rounds, threads, precision);
}

int64_t holdfast_read(const float *from, int64_t floats, int64_t rounds)
{
    return engine()->read(from, floats, rounds);
}

const char *holdfast_error(int64_t code)
{
    switch (code) {
    case DONE: return "done";
    case BAD_SIZE:
        return "steps and rows must not be negative, features and units must be at least 1, ready sums 4 * units wide";
    case BAD_LENGTH: return "a length lies outside 0..steps";
    case OTHER_KEPT: return "the kept buffer was written for another shape or by another instruction set";
    case MISSING_BUFFER: return "a buffer that this call needs is NULL";
    case BAD_CELL:
        return "there is no such variant: the exponential and the normalised cell take neither each other nor "
               "peepholes, coupling or zoneout; zoneout's probabilities lie within 0..1; zoneout of h takes no "
               "projection";
    case BAD_SLOT: return "a slot is out of range, closed, or named twice";
    case BUSY: return "another thread is stepping these streams";
    case BAD_TARGET: return "a target lies outside the vocabulary";
    case BAD_SOURCE: return "a hypothesis has no source to attend to";
    default: return "unknown error";
    }
}

const char *holdfast_isa(void)
{
    return engine()->name;
}

int64_t holdfast_has_isa(const char *name)
{
    return engine_called(name) != nullptr;
}

int64_t holdfast_use_isa(const char *name)
{
    const Engine *wanted = engine_called(name);
    if (!wanted) return 1;
    __atomic_store_n(&chosen, wanted, __ATOMIC_RELEASE);
    return 0;
}

} // extern "C"

// variants.h: the arithmetic of the cells that torch lacks, one block of units for a few rows, forwards and backwards.
//
// A variant changes what stands between the sums and h, nothing else: the products around it are the plain cell's.
#ifndef HOLDFAST_VARIANTS_H
#define HOLDFAST_VARIANTS_H

#include "gates.h"

// What such cells need beside their sums and c.
struct Variant {
    const holdfast_lstm *p;
    float *peephole;     // [blocks][i f o][VL]
    const float *c;      // forwards, where c begins: [blocks][rows][VL]
    float *h;            // beside it, h itself where R sees another; nullptr without
    Index memory_stride; // forwards: from c to n and from n to m
    // Backwards, for rows like dc:
    float *dn;        // [blocks][VL]
    float *n0;        // [blocks][VL]
    float *carry;     // [blocks][VL] gradient of h that passes by R; nullptr without
    // Of a normalised cell, see normalise.h:
    float *gain_x, *gain_h, *gain_c, *bias_c; // [blocks][4 gates][VL] twice, [blocks][VL] twice
    float *dsums, *dinput, *dshown;           // of one row: [blocks][4 gates][VL] twice, [blocks][VL]
    const float *norms;                       // of one row: [3]
    float *projected; // [blocks][VL] out: o * tanh(c), which the projection multiplied; nullptr without
};

enum Zoneout : int { NONE, SOME };

// Random bits from a counter: two keyed rounds of a 32-bit mixer, so that the backward pass draws the same again and
// nothing is stored.
static inline uint32_t mixed(uint32_t v)
{
    v = (v ^ v >> 16) * 0x21f0aaadu;
    v = (v ^ v >> 15) * 0xd35a2d97u;
    return v ^ v >> 15;
}

typedef uint32_t WordVec __attribute__((vector_size(VL * 4), may_alias));

static inline WordVec mixed(WordVec v)
{
    v = (v ^ v >> 16) * 0x21f0aaadu;
    v = (v ^ v >> 15) * 0xd35a2d97u;
    return v ^ v >> 15;
}

// How much of the step before a unit keeps, of h and of c: 0 or 1 where drawn, the probability itself where not.
struct Zoned {
    Vec h, c;
};

// 1 with this probability, to 2^-24.
static inline Vec drawn(WordVec words, float probability)
{
    const IntVec limit = IntVec{} + static_cast<int32_t>(probability * 16777216.0f);
    return (Vec)(((IntVec)(words >> 8) < limit) & (IntVec)splat(1.0f));
}

static inline Zoned zoned(const holdfast_lstm *p, Index step, Index row, Index unit)
{
    const holdfast_cell *cell = p->cell;
    if (!cell->drawn) return {splat(cell->zoneout_h), splat(cell->zoneout_c)};
    const uint32_t low = static_cast<uint32_t>(cell->seed), high = static_cast<uint32_t>(cell->seed >> 32);
    const uint32_t start = mixed(low + 0x9e3779b9u); // or seed 1 would begin with step 1 of seed 0
    const uint32_t first = mixed(start ^ static_cast<uint32_t>(step)), second = mixed(first + high);
    WordVec counter;
    for (int n = 0; n < VL; ++n) counter[n] = static_cast<uint32_t>(row * p->units + unit + n);
    const WordVec word = mixed(mixed(counter ^ first) + second);
    return {drawn(word, cell->zoneout_h), drawn(mixed(word + second), cell->zoneout_c)};
}

// `before` where share is 1, `now` where it is 0.
static inline Vec between(Vec share, Vec before, Vec now)
{
    return fma(share, before, (splat(1.0f) - share) * now);
}

static inline Vec magnitude(Vec v)
{
    return (Vec)((IntVec)v & 0x7fffffff);
}

static inline Vec choose(IntVec where, Vec yes, Vec no)
{
    return (Vec)(((IntVec)yes & where) | ((IntVec)no & ~where));
}

// e^v for v <= 0; nothing under 2^-126.
static inline Vec exponential(Vec v)
{
    return two_to_the(largest(splat(-126.0f), v * splat(1.44269504f)));
}

// log(v) for 1 <= v <= 2: 2 artanh(s), s = (v - 1) / (v + 1) <= 1/3. Within 1e-7.
static inline Vec logarithm(Vec v)
{
    const Vec s = divide(v - splat(1.0f), v + splat(1.0f)), square = s * s;
    Vec p = splat(2.0f / 13.0f);
    for (int n = 11; n > 0; n -= 2) p = fma(p, square, splat(2.0f / static_cast<float>(n)));
    return p * s;
}

// Where a row's h proper stands.
static inline float *h_of(const CellRows &cell, Index m)
{
    const Variant &v = *cell.variant;
    return v.h + (cell.c - v.c) + m * VL;
}

// Hands h on: to the next step, which may see it through a mask, and out.
static inline void show(const CellRows &cell, Index m, Vec h)
{
    const Variant &v = *cell.variant;
    const holdfast_lstm *p = v.p;
    const bool masked = p->cell->h_mask && !projects(p);
    if (v.h && !projects(p)) store(h_of(cell, m), h);
    const float *mask = p->cell->h_mask + (masked ? cell.row[m] * p->units + cell.unit : 0);
    store_factor(cell.format, cell.h + m * cell.h_stride, 0, masked ? h * part(mask, cell.present) : h, cell.present);
    if (!cell.y) return;
    if (cell.present == VL)
        store(cell.y[m] + cell.unit, h);
    else
        store_part(cell.y[m] + cell.unit, h, cell.present);
}

template <int KIND> static inline const float *at_unit(const Variant &v, Index unit)
{
    return KIND & HOLDFAST_PEEPHOLE ? v.peephole + unit * 3 : nullptr;
}

// i, f, g, o and the fresh c of a plain, peephole or coupled cell.
template <int KIND>
static inline void open_gates(const float *sums, const float *peephole, Vec c_before, Vec (&gate)[GATES], Vec &c)
{
    Vec i = load(sums), f = load(sums + VL), o = load(sums + 3 * VL);
    if (KIND & HOLDFAST_PEEPHOLE) {
        i = fma(load(peephole), c_before, i);
        f = fma(load(peephole + VL), c_before, f);
    }
    gate[1] = sigmoid(f);
    gate[0] = KIND & HOLDFAST_COUPLED ? splat(1.0f) - gate[1] : sigmoid(i);
    gate[2] = hyperbolic_tangent(load(sums + 2 * VL));
    c = fma(gate[1], c_before, gate[0] * gate[2]);
    if (KIND & HOLDFAST_PEEPHOLE) o = fma(load(peephole + 2 * VL), c, o);
    gate[3] = sigmoid(o);
}

template <int KIND, Zoneout ZONEOUT> static void variant_forward(Index rows, const CellRows &cell)
{
    const Variant &v = *cell.variant;
    for (Index m = 0; m < rows; ++m) {
        Vec gate[GATES], c;
        const Vec c_before = load(cell.c + m * cell.c_stride);
        open_gates<KIND>(cell.sums + m * BLOCK_SUMS, at_unit<KIND>(v, cell.unit), c_before, gate, c);
        Vec h = gate[3] * hyperbolic_tangent(c);
        if (ZONEOUT == SOME) {
            const Zoned keep = zoned(v.p, cell.step, cell.row[m], cell.unit);
            if (v.h) h = between(keep.h, load(h_of(cell, m)), h);
            c = between(keep.c, c_before, c);
        }
        store(cell.c + m * cell.c_stride, c);
        if (float *kept = cell.kept ? cell.kept + m * cell.kept_stride : nullptr) {
            for (Index n = 0; n < GATES; ++n) store(kept + n * VL, gate[n]);
            store(kept + 4 * VL, c);
        }
        show(cell, m, h);
    }
}

// The exponential cell. kept: exp(i~ - m), exp(log f + m' - m), g, o, c, n, 1 - f.
static void exponential_forward(Index rows, const CellRows &cell)
{
    const Vec one = splat(1.0f);
    const Index memory_stride = cell.variant->memory_stride;
    for (Index m = 0; m < rows; ++m) {
        const float *sums = cell.sums + m * BLOCK_SUMS;
        float *state = cell.c + m * cell.c_stride;
        const Vec n_before = load(state + memory_stride), m_before = load(state + 2 * memory_stride);
        const Vec raw = load(sums), forget = load(sums + VL);
        const Vec f = sigmoid(forget);
        // log sigmoid(v) = min(v, 0) - log(1 + e^-|v|), which loses nothing in either tail.
        const Vec log_f = least(Vec{}, forget) - logarithm(one + exponential(-magnitude(forget)));
        const IntVec empty = (IntVec)(n_before == Vec{});
        const Vec scale = choose(empty, raw, largest(log_f + m_before, raw));
        const Vec i = exponential(raw - scale);
        const Vec carried = choose(empty, Vec{}, exponential(log_f + m_before - scale));
        const Vec g = hyperbolic_tangent(load(sums + 2 * VL)), o = sigmoid(load(sums + 3 * VL));
        const Vec c = fma(carried, load(state), i * g), n = fma(carried, n_before, i);
        store(state, c);
        store(state + memory_stride, n);
        store(state + 2 * memory_stride, scale);
        if (float *kept = cell.kept ? cell.kept + m * cell.kept_stride : nullptr) {
            const Vec all[] = {i, carried, g, o, c, n, one - f};
            for (const Vec &each : all) store(kept, each), kept += VL;
        }
        show(cell, m, o * divide(c, n));
    }
}

// One row's blocks backwards. dh comes in whole: what R gave back, what passed by it, and dy.
template <int KIND, Zoneout ZONEOUT>
static void variant_block_backward(const CellGradients &cell, Index block)
{
    const Variant &v = *cell.variant;
    const Vec one = splat(1.0f);
    const float *kept = cell.kept + block * 5 * VL, *peephole = at_unit<KIND>(v, cell.unit + block * VL);
    const Vec i = load(kept), f = load(kept + VL), g = load(kept + 2 * VL), o = load(kept + 3 * VL);
    const Vec c_before = load(cell.c_before + block * cell.c_stride);
    Vec dh = load(cell.dh + block * VL), dc = load(cell.dc + block * VL), c = load(kept + 4 * VL), passing = {};
    if (ZONEOUT == SOME) {
        const Zoned keep = zoned(v.p, cell.step, cell.row, cell.unit + block * VL);
        if (v.carry) store(v.carry + cell.state + block * VL, keep.h * dh), dh *= one - keep.h;
        passing = keep.c * dc;
        dc *= one - keep.c;
        c = fma(f, c_before, i * g);
    }
    const Vec tanh_c = hyperbolic_tangent(c), to_o = dh * tanh_c * o * (one - o);
    if (v.projected) store(v.projected + block * VL, o * tanh_c);
    dc = fma(dh * o, one - tanh_c * tanh_c, dc);
    if (KIND & HOLDFAST_PEEPHOLE) dc = fma(to_o, load(peephole + 2 * VL), dc);
    const Vec to_f = dc * (KIND & HOLDFAST_COUPLED ? c_before - g : c_before) * f * (one - f);
    const Vec to_i = KIND & HOLDFAST_COUPLED ? Vec{} : dc * g * i * (one - i);
    passing = fma(dc, f, passing);
    if (KIND & HOLDFAST_PEEPHOLE)
        passing = fma(to_i, load(peephole), fma(to_f, load(peephole + VL), passing));
    const Vec all[GATES] = {to_i, to_f, dc * i * (one - g * g), to_o};
    for (Index n = 0; n < GATES; ++n) store(cell.dgates + block * BLOCK_SUMS + n * VL, all[n]);
    store(cell.dc + block * VL, passing);
}

template <int KIND, Zoneout ZONEOUT>
static void variant_backward(const CellGradients &cell, Index blocks, Index present_in_last)
{
    for (Index block = 0; block < blocks; ++block) variant_block_backward<KIND, ZONEOUT>(cell, block);
    if (blocks) clear_padding(cell.dgates, blocks, present_in_last);
}

// m counts as a constant: h does not depend on it.
static void exponential_backward(const CellGradients &cell, Index blocks, Index present_in_last)
{
    const Variant &v = *cell.variant;
    const Vec one = splat(1.0f);
    for (Index block = 0; block < blocks; ++block) {
        const float *kept = cell.kept + block * 7 * VL, *n_before = cell.n_before + block * cell.c_stride;
        const Vec i = load(kept), f = load(kept + VL), g = load(kept + 2 * VL), o = load(kept + 3 * VL);
        const Vec n = load(kept + 5 * VL), mean = divide(load(kept + 4 * VL), n);
        const Vec dh = load(cell.dh + block * VL), dmean = divide(dh * o, n);
        if (v.projected) store(v.projected + block * VL, o * mean);
        float *dn_at = v.dn + cell.state + block * VL;
        const Vec dc = load(cell.dc + block * VL) + dmean, dn = load(dn_at) - dmean * mean;
        const Vec before = fma(dc, load(cell.c_before + block * cell.c_stride), dn * load(n_before));
        const Vec all[GATES] = {i * fma(dc, g, dn), f * before * load(kept + 6 * VL), dc * i * (one - g * g),
                                dh * mean * o * (one - o)};
        for (Index k = 0; k < GATES; ++k) store(cell.dgates + block * BLOCK_SUMS + k * VL, all[k]);
        store(cell.dc + block * VL, dc * f);
        store(dn_at, dn * f);
    }
    if (blocks) clear_padding(cell.dgates, blocks, present_in_last);
}

typedef void (*ForwardCells)(Index rows, const CellRows &);
typedef void (*BackwardCells)(const CellGradients &, Index blocks, Index present_in_last);

struct Cells {
    ForwardCells forward;
    BackwardCells backward;
};

static void normalised_backward(const CellGradients &, Index blocks, Index present_in_last); // normalise.h

// Forwards a normalised row goes its own way.
static inline Cells cells_for(const holdfast_lstm *p)
{
#define HOLDFAST_CELLS(kind) {variant_forward<kind, NONE>, variant_backward<kind, NONE>},                              \
                             {variant_forward<kind, SOME>, variant_backward<kind, SOME>}
    static constexpr Cells all[] = {HOLDFAST_CELLS(0), HOLDFAST_CELLS(1), HOLDFAST_CELLS(2), HOLDFAST_CELLS(3)};
    if (!p->cell) return {cells_forward, cells_backward};
    if (p->cell->kind == HOLDFAST_EXPONENTIAL) return {exponential_forward, exponential_backward};
    if (p->cell->kind == HOLDFAST_NORMALISED) return {nullptr, normalised_backward};
    const bool zoneout = p->cell->zoneout_h > 0.0f || p->cell->zoneout_c > 0.0f;
    return all[2 * (p->cell->kind & 3) + (zoneout ? 1 : 0)];
}

static void pack_peephole(float *to, const holdfast_lstm *p, Index first_block, Index last_block)
{
    for (Index block = first_block; block < last_block; ++block)
        for (Index n = 0; n < 3; ++n)
            store(to + (block * 3 + n) * VL, load_part(p->cell->peephole + n * p->units + block * VL,
                                                       least_index(VL, p->units - block * VL)));
}

#endif

/* holdfast.h: the specification of the native engine.
 *
 * A plain C ABI. Nothing here knows Python, torch or OpenMP's headers. The caller owns every buffer.
 * All arrays are float32 and row-major; where strides are given they count floats, and the innermost axis is adjacent.
 *
 * Letters, as in Hochreiter & Schmidhuber 1997 and Gers et al. 2000 (forget gate), gate order as in torch.nn.LSTM:
 *
 *     i = sigmoid(Wi x + Ri h' + bi)        h', c'  state one step before
 *     f = sigmoid(Wf x + Rf h' + bf)        W  [4*units, features]  "input" weights,     rows i f g o
 *     g =    tanh(Wg x + Rg h' + bg)        R  [4*units, units]     "recurrent" weights, rows i f g o
 *     o = sigmoid(Wo x + Ro h' + bo)        b  [4*units]            one bias (torch's two, summed by the caller)
 *     c = f * c' + i * g
 *     h = o * tanh(c)
 *
 * Ragged batches: row r has lengths[r] steps, 0 <= lengths[r] <= steps, in any order. Past a row's length y is zero,
 * x is never read and dy is ignored; h_last and c_last are the state after the row's own last step (h0, c0 for a row of
 * length 0). With reverse != 0 row r runs from step lengths[r]-1 down to 0.
 *
 * Packed batches: with packed != 0, x, y, dy and dx hold row-steps only, [sum of lengths, ...], as torch's
 * PackedSequence does: step 0 of every row that has one, then step 1, and so on; within a step rows stand in the order
 * of falling length, equal lengths in the order of rows. Such a buffer's *_row leads from row-step to row-step, and its
 * *_step is not read. h0, c0, h_last and c_last are by row, as ever.
 *
 * Streams: a stack of layers whose weights are packed once, and the states of many streams by slot; one call takes some
 * of the streams one step further. Weights and what they are multiplied with may be float32, bf16 or int8; sums, gates
 * and states are float32 always.
 *
 * Promises: the same bits for the same input whatever `threads` is, and whatever other rows stand in the batch;
 * a NaN or Inf stays in its row (weight gradients excepted, which sum over rows).
 */
#ifndef HOLDFAST_H
#define HOLDFAST_H

#include <stdint.h>

#define HOLDFAST_ABI 9

#ifdef __cplusplus
extern "C" {
#endif

/* How the factors of products are rounded; sums are float32, of int8 whole numbers. BFLOAT16X3: a factor is the sum of
 * two bf16, a high part and a low one, and of two such factors all but low * low is added up: 16 bits instead of 8. */
typedef enum holdfast_precision {
    HOLDFAST_FLOAT32 = 0,
    HOLDFAST_BFLOAT16 = 1,
    HOLDFAST_INT8 = 2,
    HOLDFAST_BFLOAT16X3 = 3
} holdfast_precision;

/* Variants of the cell. Several may be set; EXPONENTIAL stands alone.
 *
 *   PEEPHOLE     (Gers & Schmidhuber 2000)     the sums of i and f get pi * c' and pf * c', that of o gets po * c
 *   COUPLED      (Greff et al. 2017, CIFG)     i = 1 - f; the weights' rows of i must be finite and count for nothing
 *   EXPONENTIAL  (Beck et al. 2024, sLSTM)     i = exp(.), f = sigmoid(.), a normaliser n and a stabiliser m beside c:
 *       m = max(log f + m', i~)  or i~ where n' = 0        n = exp(log f + m' - m) n' + exp(i~ - m)
 *       c = exp(log f + m' - m) c' + exp(i~ - m) g         h = o * c / n
 *     c0, c_last and their gradients then hold [3, rows, units]: c, n, m. m cancels in h: the gradient
 *       takes it for a constant, and that of m_last is not read.
 *   NORMALISED   (Ba et al. 2016)              with N(v) = (v - mean) / sqrt(variance + epsilon) over a row:
 *       the sums are gain_x * N(W x) + gain_h * N(R h') + b          h = o * tanh(gain_c * N(c) + bias_c)
 *       Of the others only h_mask and a projection go with it.
 */
enum { HOLDFAST_PEEPHOLE = 1, HOLDFAST_COUPLED = 2, HOLDFAST_EXPONENTIAL = 4, HOLDFAST_NORMALISED = 8 };

typedef struct holdfast_cell { /* what makes the cell of a layer another than the plain one */
    int64_t kind;          /* bits of the above */
    const float *peephole; /* [3*units] pi, pf, po, with PEEPHOLE */
    const float *h_mask;   /* [rows, units] h' is multiplied by it before R (Gal & Ghahramani 2016), or NULL for one;
                              with a projection [rows, projected] */
    /* Zoneout (Krueger et al. 2017): with these probabilities a unit keeps its h or its c of the step before. */
    float zoneout_h, zoneout_c;
    int64_t drawn; /* non-zero: drawn by a counter-based generator from (seed, step, row, unit); 0: their expectation */
    uint64_t seed;
    const float *projection; /* P [projected, units] (Sak et al. 2014): h = P (o * tanh(c)), or NULL; h0, y, h_last and
                                R's columns are then `projected` wide */
    int64_t projected;
    const float *gain_x, *gain_h; /* [4*units], with NORMALISED */
    const float *gain_c, *bias_c; /* [units] */
    float epsilon;
    int32_t unused;
} holdfast_cell;

typedef struct holdfast_lstm { /* one layer, one direction */
    int64_t steps, rows, features, units;
    int64_t threads; /* at most; fewer are used where the work is small */
    int64_t reverse;
    const float *x; /* [steps, rows, features], or packed [sum of lengths, features] */
    int64_t x_step, x_row;
    const float *w_input;     /* [4*units, features]; NULL: features is 4*units and x holds ready sums, W x and more */
    const float *w_recurrent; /* [4*units, units] */
    const float *bias;        /* [4*units], or NULL for zero */
    const holdfast_cell *cell; /* or NULL for the plain cell */
    int64_t precision; /* of the factors of products: HOLDFAST_FLOAT32, or HOLDFAST_BFLOAT16 or HOLDFAST_BFLOAT16X3
                          where the instruction set in use multiplies bf16, but for projections, normalised cells and
                          ready sums; all sums and all state in float32 */
    const float *h0, *c0;     /* [rows, units], or NULL for zero */
    const int64_t *lengths;   /* [rows], or NULL: every row has `steps` */
    int64_t packed;           /* x, y, dy and dx are packed */
    float *y;                 /* [steps, rows, units], or packed [sum of lengths, units] */
    int64_t y_step, y_row;
    float *h_last, *c_last; /* [rows, units] */
    float *kept;            /* holdfast_kept_floats(...) floats for the backward pass, or NULL in inference */
    void *scratch;          /* holdfast_scratch_bytes(...), 64-byte aligned */
} holdfast_lstm;

typedef struct holdfast_lstm_gradients {
    const float *dy; /* like y, or NULL for zero */
    int64_t dy_step, dy_row;
    const float *dh_last, *dc_last; /* [rows, units], or NULL for zero */
    float *dx;                      /* like x, or NULL: not wanted */
    int64_t dx_step, dx_row;
    float *dw_input;     /* [4*units, features]; each of the following may be NULL: not wanted */
    float *dw_recurrent; /* [4*units, units] */
    float *dbias;        /* [4*units] */
    float *dh0, *dc0;    /* [rows, units] */
    float *dpeephole;    /* [3*units] */
    float *dprojection;  /* [projected, units] */
    float *dgain_x, *dgain_h; /* [4*units] */
    float *dgain_c, *dbias_c; /* [units] */
} holdfast_lstm_gradients;


/* How a layer's output y meets its input x: as it is; y + x (He et al. 2016); or t * y + (1 - t) * x with
 * t = sigmoid(T x + b) (Srivastava, Greff & Schmidhuber 2015). Where their widths differ S x stands for x. */
typedef enum holdfast_connection {
    HOLDFAST_PLAIN = 0,
    HOLDFAST_RESIDUAL = 1,
    HOLDFAST_HIGHWAY = 2
} holdfast_connection;

typedef struct holdfast_stream_layer { /* what a layer of a stack is; see holdfast_cell */
    int64_t units;
    int64_t projection; /* width of h where it is projected, h = P (o tanh(c)); otherwise 0, and h has `units` */
    int64_t kind;
    int64_t connection;         /* a holdfast_connection */
    float zoneout_h, zoneout_c; /* in their expectation */
    float epsilon;
    int32_t unused;
} holdfast_stream_layer;

typedef struct holdfast_streams {
    int64_t layers, features;
    const holdfast_stream_layer *shapes; /* [layers], for as long as the streams live */
    int64_t slots;                       /* streams at most */
    int64_t precision;                   /* a holdfast_precision, but not BFLOAT16X3 */
    int64_t threads;                     /* at most; fewer are used where the work is small */
    void *memory;                        /* holdfast_streams_bytes(...), 64-byte aligned */
    unsigned char *open; /* [slots] 1: may be stepped, 0: may not; the caller's to write between steps */
    /* What follows is the library's. */
    int64_t busy;       /* 1 while a step is on its way */
    const void *engine; /* the instruction set that the weights are packed for */
    float *h, *c;       /* the states: [layers, slots], h_row and c_row floats apart. A row of the exponential cell
                           holds c, n and m, `units` rounded up to 16 floats apart */
    int64_t h_row, c_row;
} holdfast_streams;

typedef struct holdfast_stream_weights { /* of one layer; read while it is packed, not later */
    const float *w_input;     /* [4*units, features]; above the first layer [4*units, width of the output below] */
    const float *w_recurrent; /* [4*units, width of h] */
    const float *bias;        /* [4*units], or NULL for zero */
    const float *projection;  /* [projection, units], or NULL without */
    const float *peephole;    /* these as in holdfast_cell, or NULL without */
    const float *gain_x, *gain_h, *gain_c, *bias_c;
    const float *reshape;        /* S [width of h, width of x], with a connection where they differ */
    const float *transform;      /* T [width of h, width of x], of a highway */
    const float *transform_bias; /* [width of h], of a highway */
} holdfast_stream_weights;

typedef struct holdfast_step {
    holdfast_streams *streams;
    int64_t rows;         /* streams to be stepped */
    const float *x;       /* [rows, features] */
    int64_t x_row;        /* floats from row to row */
    const int64_t *slots; /* [rows] different from each other, or NULL: 0, 1, 2... */
    float *y;             /* [rows, width of h], without gaps: what the top layer shows */
} holdfast_step;

/* One step of a decoder with attention and input feeding (Luong, Pham & Manning 2015). A hypothesis is a slot of the
 * streams; s is what their top layer shows, a' the hypothesis' a of the step before:
 *
 *     x      = [embedding of the token ; a']               the streams' input
 *     e_j    = s . key_j      alpha = softmax(e)           over the hypothesis' own source
 *     a      = tanh(Wc [sum_j alpha_j value_j ; s] + bc)
 *     result = logarithm of softmax(Wo a + bo)
 *
 * Wc and Wo are packed once, in the streams' precision; attention is in float32. */
typedef struct holdfast_source { /* matrices have no gaps between rows */
    const float *keys;   /* [steps, width of s] */
    const float *values; /* [steps, remembered] */
    int64_t steps;       /* 0: there is none here (any longer) */
} holdfast_source;

typedef struct holdfast_decoder {
    holdfast_streams *streams; /* whose features are `embedded` + `combined` */
    int64_t embedded, remembered, combined, vocabulary; /* widths of an embedding, a value and a; words */
    const float *embedding;    /* [vocabulary, embedded] */
    const holdfast_source *sources;
    const int64_t *source_of; /* [slots] into sources */
    float *fed;               /* [slots, combined] a */
    void *memory;             /* holdfast_decoder_bytes(...), 64-byte aligned */
} holdfast_decoder;

typedef struct holdfast_decoder_weights { /* read while they are packed, not later */
    const float *combine; /* Wc [combined, remembered + width of s] */
    const float *combine_bias; /* [combined], or NULL for zero */
    const float *output;       /* Wo [vocabulary, combined] */
    const float *output_bias;  /* [vocabulary], or NULL for zero */
} holdfast_decoder_weights;

typedef struct holdfast_decoder_step {
    const holdfast_decoder *decoder;
    int64_t rows;
    const int64_t *tokens; /* [rows] 0..vocabulary-1 */
    const int64_t *slots;  /* [rows] different from each other */
    float *result;         /* [rows], result_row apart: [vocabulary], written up to a multiple of 64 */
    int64_t result_row;
    float *alpha; /* [rows], alpha_row apart: the source's steps, then zeros */
    int64_t alpha_row; /* a multiple of 16, no less than the longest source has steps */
} holdfast_decoder_step;

/* Cross-entropy of softmax(h weight^T + bias), a chunk of tokens at a time: the logits of all tokens never exist. With
 * t the target's word and e the smoothing, a token's loss is
 *
 *     log(sum over words of exp(logit)) - (1 - e) * logit[t] - e * mean of its logits
 *
 * of which the library gives the parts and leaves the logarithm to the caller. Matrices have no gaps between rows. */
typedef struct holdfast_softmax {
    int64_t tokens, width, vocabulary;
    int64_t threads;        /* at most; fewer are used where the work is small */
    int64_t precision;      /* of the factors of the three products, h, weight and the gradients of logits: as in
                               holdfast_lstm; all else is float32 */
    const float *h;         /* [tokens, width] */
    const float *weight;    /* [vocabulary, width] */
    const float *bias;      /* [vocabulary], or NULL for zero */
    const int64_t *targets; /* [tokens] 0..vocabulary-1; with `beside` -1, too: no word is left out */
    const float *weights;   /* [tokens] what each token's loss counts, or NULL for one */
    const float *beside;    /* [tokens], or NULL: logits of targets that stand beside the words, as where these are a
                               sample. A token's word of that number is then left out: it is the target once more.
                               Smoothing must be 0 and facts[2] is not written; gradients are those by h, words and
                               biases, and none by way of `beside` */
    float smoothing, scale; /* gradients are those of scale * (sum of weight * loss) */
    float *facts;           /* [4, tokens] m: the largest logit; sum of exp(logit - m); logit[t]; sum of logits */
    float *dh;              /* [tokens, width]; each of these may be NULL: not wanted */
    float *dweight;         /* [vocabulary, width] */
    float *dbias;           /* [vocabulary] */
    void *scratch;          /* holdfast_softmax_scratch_bytes(...), 64-byte aligned */
} holdfast_softmax;

/* A matrix B that is packed once, and products A B + init with it, for loops that meet the same weights at every step. */
typedef struct holdfast_matrix {
    int64_t depth, columns; /* of B */
    int64_t precision;      /* of the factors, as in holdfast_lstm */
    void *memory;           /* holdfast_matrix_bytes(...), 64-byte aligned */
    const void *engine;     /* the library's: the instruction set that it is packed for */
} holdfast_matrix;

typedef struct holdfast_product {
    const holdfast_matrix *matrix;
    int64_t rows;
    int64_t threads;   /* at most; fewer are used where the work is small */
    const float *a;    /* [rows, depth], a_row apart */
    int64_t a_row;
    const float *init; /* [rows, columns], init_row apart, 0: one row for all; or NULL for zero. May be c */
    int64_t init_row;
    float *c;          /* [rows, columns], c_row apart */
    int64_t c_row;
    void *scratch;     /* holdfast_product_scratch_bytes(...), 64-byte aligned */
} holdfast_product;

#if defined(__GNUC__)
#pragma GCC visibility push(default) /* everything else in the library is hidden */
#endif

int64_t holdfast_abi(void);

/* Sizes of the buffers the caller hands in; they depend on the instruction set in use. */
int64_t holdfast_kept_floats(const holdfast_lstm *);
int64_t holdfast_scratch_bytes(const holdfast_lstm *, int64_t backward);

/* 0 = done; otherwise an error, in words by holdfast_error(code). */
int64_t holdfast_lstm_forward(const holdfast_lstm *);
int64_t holdfast_lstm_backward(const holdfast_lstm *, const holdfast_lstm_gradients *);
const char *holdfast_error(int64_t code);

/* Streams, in this order: bytes (which also settles the instruction set), lay_out (clears the states), pack for every
 * layer, and then steps. A step allocates nothing and takes no lock; two at once on the same streams are an error. */
int64_t holdfast_streams_bytes(holdfast_streams *); /* negative: an error's code, negated */
int64_t holdfast_streams_lay_out(holdfast_streams *);
int64_t holdfast_streams_pack(holdfast_streams *, int64_t layer, const holdfast_stream_weights *);
int64_t holdfast_streams_step(const holdfast_step *);

/* A decoder, in this order: streams that are packed; bytes, lay_out, pack, and then steps. Nothing has changed where a
 * step is refused. */
int64_t holdfast_decoder_bytes(const holdfast_decoder *); /* negative: an error's code, negated */
int64_t holdfast_decoder_lay_out(const holdfast_decoder *);
int64_t holdfast_decoder_pack(const holdfast_decoder *, const holdfast_decoder_weights *);
int64_t holdfast_decoder_advance(const holdfast_decoder_step *);

int64_t holdfast_softmax_scratch_bytes(const holdfast_softmax *);
int64_t holdfast_softmax_cross_entropy(const holdfast_softmax *); /* tokens > 0; without them nothing is written */

/* A matrix, in this order: bytes (which also settles the instruction set), pack, and then products. `from` is
 * [depth, columns] or, turned, [columns, depth], without gaps between rows; it is read while it is packed, not later. */
int64_t holdfast_matrix_bytes(holdfast_matrix *); /* negative: an error's code, negated */
int64_t holdfast_matrix_pack(const holdfast_matrix *, const float *from, int64_t turned);
int64_t holdfast_product_scratch_bytes(const holdfast_product *);
int64_t holdfast_product_make(const holdfast_product *);

/* Instruction sets: "generic", "avx2", "avx512", "avx512vnni", "avx512bf16" (which has VNNI too), "amx" (which has both
 * too, and is to be had only where products by it come out right). The best the CPU has is chosen at load; HOLDFAST_ISA
 * overrides it. "amx_emulated" is for tests: the kernels of "amx" on a CPU that has avx512bf16, slowly, and only where
 * it is asked for. */
const char *holdfast_isa(void);
int64_t holdfast_use_isa(const char *name); /* non-zero: this CPU or this build does not have it */
int64_t holdfast_has_isa(const char *name);

/* `rounds` rounds of multiply-adds in registers alone, on `threads` threads: the roof that benchmarks are held to, of
 * float32 or, with HOLDFAST_BFLOAT16 and where the instruction set has it, of bf16. Returns the floating-point
 * operations done; the caller takes the time. */
int64_t holdfast_burn(int64_t rounds, int64_t threads, int64_t precision);

/* Reads these floats `rounds` times, doing next to nothing with them: the roof for whatever is bound by its weights'
 * way out of the cache. Returns the bytes read; the caller takes the time. */
int64_t holdfast_read(const float *from, int64_t floats, int64_t rounds);

/* Borrow the OpenMP team already in the process: the addresses of these three functions of its runtime, or NULL for one
 * thread. The last two are asked inside a region, because a team may be smaller than the number of threads wanted. */
void holdfast_borrow_team(void *gomp_parallel, void *omp_get_thread_num, void *omp_get_num_threads);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif

/* What Cython hands to the kernels. Plain C, no template: one meaning for every ISA and dtype. */
#ifndef NODECORE_STRUCTS_H
#define NODECORE_STRUCTS_H

#include <stdint.h>

/* ---- Programs ------------------------------------------------------------------------------- */

enum nc_opcode {
#define UNARY(name) NC_OP_##name,
#define BINARY(name) NC_OP_##name,
#define TERNARY(name) NC_OP_##name,
#define OTHER(name) NC_OP_##name,
#include "ops.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef OTHER
    NC_N_OPS
};

/* How an operand spreads over the destination's rows and the tile's lanes. */
enum nc_kind {
    NC_LANE = 0, /* [n][L] */
    NC_ROW = 1,  /* [1][L], the same row for every r */
    NC_UNI = 2,  /* [n], the same number in every lane */
    NC_USC = 3,  /* [1], one number for all */
    NC_ABSENT = 4
};

/* Where an operand lives. A program is run with one base pointer a space. A lane space holds
 * [rows][L], so row r of the operand at offset `off` begins at base + (off + r) * L; the uniform
 * space holds [rows]. */
enum nc_space {
    NC_SP_RF = 0, /* the register file */
    NC_SP_U,      /* uniform: constants, parameters, what is computed from them */
    NC_SP_S,      /* a sample's own: args, what is computed from them */
    NC_SP_T,      /* time, one row */
    NC_SP_Y,      /* the state */
    NC_SP_OUT,    /* the result */
    NC_SP_RES,    /* residuals: what the forward phase keeps for the reverse phase */
    NC_SP_CT,     /* cotangent of the result */
    NC_SP_YBAR,   /* cotangent of the state */
    NC_SP_TBAR,   /* cotangent of the time */
    NC_SP_SBAR,   /* cotangent of S */
    NC_SP_ARGS,   /* raw args of a sample program */
    NC_SP_CURVE,  /* a given curve at the time of the stage */
    NC_SP_V,      /* a tangent of the state, and in one row more that of the time */
    NC_N_SPACES
};

typedef struct {
    uint8_t space, kind;
    uint16_t unused;
    int32_t off; /* in rows */
} nc_operand;

/* 64 bytes: one cache line. */
typedef struct {
    int32_t op, n;
    nc_operand dst, a, b, c;
    int32_t p[4]; /* O, K, J, I of the contractions */
    int32_t aux;  /* offset into ipool, or into the gradient accumulator (acc; where dst is not absent
                   * its offset is that of a second sum there, of b alone) */
    int32_t panel; /* acc: which panel */
} nc_instr;

typedef struct {
    const nc_instr *code;
    const int32_t *ipool;
    int32_t n_instr, rf_rows;
} nc_program;

/* ---- Gradient sinks ------------------------------------------------------------------------- */

/* The columns (lanes x stages x steps) of one `acc` instruction, gathered until they are worth a
 * matrix product. */
typedef struct {
    int32_t K, J, cap, fill;  /* cap and fill in columns */
    int64_t x_off, g_off;     /* where the sides begin in nc_sinks.buf, in elements */
    int64_t sums_off;         /* where there is room for sums that are not yet across lanes */
    int64_t acc_off;          /* where the product is added in nc_sinks.acc */
    int64_t bias_off;         /* where the sum of g is added; -1: nowhere */
    int32_t mode, single;     /* see vm/panel.h; single: L = 1 */
    int32_t g_vectors, row_step; /* from row to row of a side that is not vectors, in elements */
} nc_panel;

typedef struct {
    double *acc;   /* float64 for both dtypes */
    void *buf;     /* element type */
    nc_panel *panels;
    int32_t n_panels, unused;
} nc_sinks;

#endif

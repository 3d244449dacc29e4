/* The tile virtual machine: runs a program for the L samples of a tile.
 *
 *     nc_program ----> vm_run ----> table[op] ----> op_<name>(instr, base, L, ipool, sinks)
 *
 * A lane register holds [rows][L]: row r of an operand at offset off begins at
 * base[space] + (off + r) * L. L is 1 or a multiple of VL; with L = 1 a register is a plain vector
 * and the kernels go along its rows. The uniform space holds one number a row whatever L is.
 *
 * Each op has one canonical order of arithmetic, a function of its shape alone, so a sample has the
 * same bits in any lane of any tile. docs/math/tile-kernels.md explains the kernels and gives
 * measured speeds.
 *
 * Include this file alone: it includes the other templates of this folder. */
#include "elementwise.h"
#include "affine.h"
#include "reduce.h"
#include "panel.h"

typedef void (*FN(nc_kernel))(NC_KERNEL_ARGS);

/* Runs p. base has one pointer a space, and only those the program names are read. sinks receives
 * the acc instructions; NULL where the program has none. */
static __attribute__((unused)) void FN(vm_run)(const nc_program *p, REAL *const *base, int64_t L,
                                               nc_sinks *sinks)
{
    /* Calls, not one function with a switch: kernels of one function would have their constants
     * hoisted out of the dispatch loop and spilled by the compiler. */
    static const FN(nc_kernel) tile[NC_N_OPS] = {
#define UNARY(name) [NC_OP_##name] = FN(op_##name),
#define BINARY(name) [NC_OP_##name] = FN(op_##name),
#define TERNARY(name) [NC_OP_##name] = FN(op_##name),
#define OTHER(name) [NC_OP_##name] = FN(op_##name),
#include "../ops.def"
#undef UNARY
#undef BINARY
#undef TERNARY
    };
    static const FN(nc_kernel) single[NC_N_OPS] = {
#define UNARY(name) [NC_OP_##name] = FN(single_##name),
#define BINARY(name) [NC_OP_##name] = FN(single_##name),
#define TERNARY(name) [NC_OP_##name] = FN(single_##name),
#include "../ops.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef OTHER
    };
    const FN(nc_kernel) *const table = L == 1 ? single : tile;
    const int32_t *ipool = p->ipool;
    const nc_instr *const end = p->code + p->n_instr;
    for (const nc_instr *in = p->code; in < end; in++)
        table[in->op](in, base, L, ipool, sinks);
}

#undef NC_KERNEL_ARGS
#undef NC_KERNEL_UNUSED
#undef NC_APART

/* What a variant (one ISA) offers for one element type. */
#ifndef NODECORE_BACKEND_H
#define NODECORE_BACKEND_H

#include "solve.h"

typedef struct {
    const char *isa;
    int32_t real_bytes, vector_lanes;
    void (*run)(const nc_program *p, void *const *base, int64_t L, nc_sinks *sinks);
    size_t (*panel_layout)(const nc_program *p, int64_t L, nc_panel *panels);
    void (*panel_flush)(nc_sinks *sinks);
    /* Takes chunks (or samples) of the problem until there are no more. leader: the thread that
     * entered, which polls. pause_after: seconds after which a leader with work left for others
     * returns 1, to be called again with the same state (NULL at first); else 0 when done. */
    int (*forward)(nc_problem *p, int leader, double pause_after, void **state);
    /* The same for the backward pass. It does not pause: the forward pass has shown whether it is long. */
    void (*backward)(nc_problem *p, nc_backward *b, int leader);
    /* The entries of a chunk whose record has a limit, of a window of its schedule or (-1) all; non-zero when
     * memory is out. */
    int (*unroll)(nc_problem *p, int64_t chunk, int64_t window, nc_record *out);
    size_t (*lu_work)(int64_t D, int64_t L);
    /* For tests: factors M, or I - hg M where hg is given, then `again` in the masked lanes, if given;
     * solves; r = b - M x for the matrices that were factored last (M is overwritten with them). */
    void (*lu)(void *M, const void *hg, const void *again, const void *mask, void *lu, int32_t *piv,
               void *b, void *r, int64_t D, int64_t L, uint8_t *singular, int transposed);
} nc_backend;

typedef struct {
    const char *name;
    const nc_backend *f64, *f32;
} nc_variant;

int nc_n_variants(void);
const nc_variant *nc_variant_at(int i);
int nc_isa_available(const char *name);

#endif

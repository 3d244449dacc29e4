/* Compiled without target flags: which variants there are, which this processor can run, and what
 * the variants share: the clock, the arenas, the records. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend.h"

/* ---- Variants ------------------------------------------------------------------------------- */

#define ISA(name) extern const nc_backend nc_backend_f64_##name, nc_backend_f32_##name;
#include "isa.def"
#undef ISA

static const nc_variant variants[] = {
#define ISA(name) {#name, &nc_backend_f64_##name, &nc_backend_f32_##name},
#include "isa.def"
#undef ISA
};

int nc_n_variants(void)
{
    return (int)(sizeof variants / sizeof variants[0]);
}

const nc_variant *nc_variant_at(int i)
{
    return &variants[i];
}

int nc_isa_available(const char *name)
{
    if (strcmp(name, "baseline") == 0)
        return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(name, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(name, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
#endif
    return 0;
}

/* ---- Clock ---------------------------------------------------------------------------------- */

double nc_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void nc_wait(nc_problem *p, int others)
{
    double start = nc_now(), next_poll = start + 0.02;
    while (__atomic_load_n(&p->n_done, __ATOMIC_ACQUIRE) < others) {
        double now = nc_now();
        if (now - start < 2e-3) { /* a nap takes 70 us and more: too long for short passes */
            sched_yield();
        } else {
            struct timespec nap = {0, 20000};
            nanosleep(&nap, NULL);
        }
        if (now >= p->deadline && !p->stop)
            __atomic_store_n(&p->stop, NC_STOP_DEADLINE, __ATOMIC_RELAXED);
        if (p->poll && now > next_poll) {
            next_poll = now + 0.02;
            if (p->poll(p->poll_ctx, (double)p->retired / (double)p->batch))
                __atomic_store_n(&p->stop, NC_STOP_INTERRUPT, __ATOMIC_RELAXED);
        }
    }
}

/* ---- Arenas --------------------------------------------------------------------------------- */

/* Work spaces are kept between calls: the first touch of fresh memory costs ten times its reuse. A
 * locked list, never thread-local: threads come and go. At most 64 MiB stay. */
typedef struct arena {
    struct arena *next;
    size_t bytes;
    char pad[48];
} arena;

static arena *free_arenas;
static size_t kept_bytes;
static pthread_mutex_t arena_lock = PTHREAD_MUTEX_INITIALIZER;
enum { ARENA_KEEP = 64 << 20 };

/* A child of fork has none of its parent's threads, though OpenMP believes that it has. */
static int forked;

static pthread_mutex_t event_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_before_fork(void)
{
    pthread_mutex_lock(&arena_lock);
    pthread_mutex_lock(&event_lock);
}

static void unlock_after_fork(void)
{
    pthread_mutex_unlock(&event_lock);
    pthread_mutex_unlock(&arena_lock);
}

static void unlock_in_child(void)
{
    forked = 1;
    unlock_after_fork();
}

__attribute__((constructor)) static void survive_fork(void)
{
    pthread_atfork(lock_before_fork, unlock_after_fork, unlock_in_child);
}

int nc_forked(void)
{
    return forked;
}

void *nc_arena_get(size_t bytes)
{
    arena *a = NULL;
    pthread_mutex_lock(&arena_lock);
    for (arena **at = &free_arenas; *at; at = &(*at)->next)
        if ((*at)->bytes >= bytes && (*at)->bytes <= 4 * bytes + 65536) {
            a = *at;
            *at = a->next;
            kept_bytes -= a->bytes;
            break;
        }
    pthread_mutex_unlock(&arena_lock);
    if (!a) {
        bytes = (bytes + 4095) & ~(size_t)4095;
        if (posix_memalign((void **)&a, 64, bytes + sizeof(arena)))
            return NULL;
        a->bytes = bytes;
    }
    NC_ALLOW(a + 1, a->bytes);
#if defined(__SANITIZE_ADDRESS__)
    memset(a + 1, 0xFF, a->bytes); /* NaN */
#endif
    return a + 1;
}

void nc_arena_put(void *p)
{
    arena *a = (arena *)p - 1;
    NC_ALLOW(p, a->bytes); /* free() wants it so */
    pthread_mutex_lock(&arena_lock);
    int keep = kept_bytes + a->bytes <= ARENA_KEEP;
    if (keep) {
        NC_FORBID(a + 1, a->bytes);
        a->next = free_arenas;
        free_arenas = a;
        kept_bytes += a->bytes;
    }
    pthread_mutex_unlock(&arena_lock);
    if (!keep)
        free(a);
}

/* ---- Events --------------------------------------------------------------------------------- */

static int grow_events(nc_event_list *list)
{
    int64_t cap = list->cap ? 2 * list->cap : 16;
    nc_event *items = realloc(list->items, (size_t)cap * sizeof *items);
    if (!items)
        return -1;
    list->items = items;
    char *y = realloc(list->y, (size_t)(cap * list->row_bytes));
    if (!y)
        return -1;
    list->y = y;
    list->cap = cap;
    return 0;
}

int nc_event_push(nc_event_list *list, const nc_event *e, const void *y)
{
    pthread_mutex_lock(&event_lock);
    int failed = list->n == list->cap && grow_events(list);
    if (!failed) {
        memcpy(list->y + list->n * list->row_bytes, y, (size_t)list->row_bytes);
        list->items[list->n++] = *e;
    }
    pthread_mutex_unlock(&event_lock);
    return failed ? -1 : 0;
}

void nc_event_free(nc_event_list *list)
{
    free(list->items);
    free(list->y);
    list->items = NULL;
    list->y = NULL;
    list->n = list->cap = 0;
}

/* ---- Records -------------------------------------------------------------------------------- */

enum { BLOCK_BYTES = 64 << 10, TRACE_BLOCK_BYTES = 256 << 10 };

static int64_t round_up(int64_t bytes)
{
    return (bytes + 15) & ~(int64_t)15;
}

static int64_t carry_bytes(int64_t lanes)
{
    return round_up((int64_t)sizeof(nc_carry) + lanes * (3 * 8 + 3 * 8 + 4 + 1));
}

void nc_record_init(nc_record *r, int64_t lanes, int64_t dim, int64_t real_bytes, int64_t stages,
                    int64_t carry_rows)
{
    memset(r, 0, sizeof *r);
    r->lanes = lanes;
    r->dim = dim;
    r->real_bytes = real_bytes;
    r->off_q = 4 * lanes;
    r->off_flags = 8 * lanes;
    r->off_t = round_up(9 * lanes);
    r->off_h = r->off_t + 8 * lanes;
    r->off_t_new = r->off_h + 8 * lanes;
    r->off_y = r->off_t_new + 8 * lanes;
    r->stages = stages;
    r->off_stages = (r->off_y + lanes * dim * real_bytes + 63) & ~(int64_t)63;
    r->off_carry = 0;
    r->carry_rows = carry_rows;
    r->off_newton = carry_bytes(lanes);
    r->window = 1;
    r->entry_bytes = stages ? round_up(r->off_stages + stages * lanes * dim * real_bytes)
                            : round_up(r->off_y + lanes * dim * real_bytes);
    r->per_block = BLOCK_BYTES / r->entry_bytes;
    if (r->per_block < 1)
        r->per_block = 1;
}

static int64_t slot_bytes(const nc_record *r, int64_t real_bytes)
{
    int64_t newton = r->carry_rows ? round_up(NC_NEWTON_DOUBLES * 8 * r->lanes) +
                                         r->carry_rows * r->dim * r->lanes * real_bytes
                                   : 0;
    return round_up(r->off_y + r->lanes * r->dim * real_bytes) + r->off_newton + round_up(newton);
}

int64_t nc_checkpoint_bytes(int64_t lanes, int64_t dim, int64_t real_bytes, int64_t carry_rows)
{
    nc_record r;
    nc_record_init(&r, lanes, dim, real_bytes, 0, carry_rows);
    return slot_bytes(&r, real_bytes) + nc_schedule_bytes(NC_KEEP_BINOMIAL, 1) +
           (int64_t)sizeof(char *);
}

int64_t nc_record_overhead(int64_t lanes, int64_t dim, int64_t real_bytes, int64_t stages)
{
    nc_record r;
    nc_record_init(&r, lanes, dim, real_bytes, stages, 0);
    return r.entry_bytes + 8 * (int64_t)sizeof(char *);
}

int nc_record_limit(nc_record *r, int kind, int64_t slots, int64_t n, int64_t segment, int64_t window)
{
    r->window = window;
    r->last_bytes = r->entry_bytes;
    r->off_carry = round_up(r->off_y + r->lanes * r->dim * r->real_bytes);
    r->entry_bytes = slot_bytes(r, r->real_bytes);
    r->limit = slots;
    r->per_block = BLOCK_BYTES / r->entry_bytes;
    if (r->per_block < 1)
        r->per_block = 1;
    r->last = malloc((size_t)r->last_bytes);
    return r->last ? nc_schedule_init(&r->plan, kind, slots, n, segment) : -1;
}

/* One more block; the last one of a record that may not grow is as small as it can be. */
static int add_block(nc_record *r)
{
    if (r->n_blocks == r->cap_blocks) {
        int64_t cap = r->cap_blocks ? 2 * r->cap_blocks : 8;
        char **blocks = realloc(r->blocks, (size_t)cap * sizeof(char *));
        if (!blocks)
            return -1;
        r->blocks = blocks;
        r->cap_blocks = cap;
    }
    int64_t entries = r->per_block, most = r->limit ? r->limit : r->most;
    if (most && most - r->n_blocks * r->per_block < entries)
        entries = most - r->n_blocks * r->per_block;
    char *block = nc_arena_get((size_t)(entries * r->entry_bytes));
    if (!block)
        return -1;
    r->blocks[r->n_blocks++] = block;
    r->peak_bytes += entries * r->entry_bytes;
    return 0;
}

void nc_record_keep_traces(nc_record *r, int64_t stages, int64_t res_rows, int64_t real_bytes,
                           int64_t bytes)
{
    r->trace_stages = stages;
    r->trace_off_res = (r->dim * r->lanes * real_bytes + 127) & ~(int64_t)63; /* a slack of a vector */
    r->trace_stage_bytes = (r->trace_off_res + res_rows * r->lanes * real_bytes + 127) & ~(int64_t)63;
    r->trace_bytes = stages * r->trace_stage_bytes;
    if (r->trace_bytes <= 0)
        return;
    r->traces_per_block =
        (bytes < TRACE_BLOCK_BYTES ? bytes : TRACE_BLOCK_BYTES) / (r->trace_bytes + 8);
    if (r->traces_per_block < 1)
        r->traces_per_block = 1;
    int64_t blocks = bytes / (r->traces_per_block * r->trace_bytes + (int64_t)sizeof(char *));
    r->trace_limit = blocks * r->traces_per_block;
    r->trace_blocks = blocks ? calloc((size_t)blocks, sizeof(char *)) : NULL;
    if (!r->trace_blocks)
        r->trace_limit = 0;
}

char *nc_record_trace(nc_record *r, int64_t i)
{
    if (i >= r->trace_limit)
        return NULL;
    if (i == r->n_trace_blocks * r->traces_per_block) {
        char *block = nc_arena_get((size_t)(r->traces_per_block * r->trace_bytes));
        if (!block)
            return NULL;
        r->trace_blocks[r->n_trace_blocks++] = block;
    }
    return nc_trace_at(r, i);
}

char *nc_record_push(nc_record *r)
{
    if (r->most && r->n == r->most)
        return NULL;
    if (r->n == r->n_blocks * r->per_block && add_block(r))
        return NULL;
    return nc_record_at(r, r->n++);
}

char *nc_record_slot(nc_record *r, int64_t slot)
{
    while (slot >= r->n_blocks * r->per_block)
        if (add_block(r))
            return NULL;
    return slot < 0 ? NULL : nc_record_at(r, slot);
}

int nc_record_paths(nc_record *r, int64_t first, int64_t n, int64_t period)
{
    r->first_path = first;
    r->n_paths = n;
    r->period = period;
    r->paths = calloc((size_t)(n ? n : 1), sizeof(nc_path));
    r->peak_bytes = r->path_bytes = n * (int64_t)sizeof(nc_path);
    return r->paths ? 0 : -1;
}

/* An array of n that is to hold one more. Room doubles, so it is full when n is a power of two. */
static void *grow(nc_record *r, void *array, int64_t n, int64_t bytes)
{
    if (n & (n - 1))
        return array;
    int64_t room = n ? 2 * n : 1;
    void *more = realloc(array, (size_t)(room * bytes));
    if (more) {
        r->path_bytes += (room - n) * bytes;
        if (r->path_bytes > r->peak_bytes)
            r->peak_bytes = r->path_bytes;
    }
    return more;
}

static void *shrink(nc_record *r, void *array, int64_t n, int64_t bytes)
{
    int64_t room = n ? 1 : 0;
    while (room < n)
        room *= 2;
    void *less = room > n ? realloc(array, (size_t)(n * bytes)) : NULL;
    if (less)
        r->path_bytes -= (room - n) * bytes;
    return less ? less : array;
}

int nc_path_end(nc_record *r, int64_t sample, double t_new)
{
    nc_path *path = r->paths + (sample - r->first_path);
    double *ends = grow(r, path->ends, path->n_ends, sizeof(double));
    if (!ends)
        return -1;
    path->ends = ends;
    ends[path->n_ends++] = t_new;
    return 0;
}

char *nc_path_pair(nc_record *r, int64_t sample)
{
    nc_path *path = r->paths + (sample - r->first_path);
    char *pairs = grow(r, path->pairs, path->n_pairs, 2 * r->dim * r->real_bytes);
    if (!pairs)
        return NULL;
    path->pairs = pairs;
    return nc_pair_at(r, path, path->n_pairs++);
}

void nc_path_close(nc_record *r, int64_t sample)
{
    nc_path *path = r->paths + (sample - r->first_path);
    path->ends = shrink(r, path->ends, path->n_ends, sizeof(double));
    path->pairs = shrink(r, path->pairs, path->n_pairs, 2 * r->dim * r->real_bytes);
}

void nc_record_free(nc_record *r)
{
    for (int64_t i = 0; i < (r->paths ? r->n_paths : 0); i++) {
        free(r->paths[i].ends);
        free(r->paths[i].pairs);
    }
    free(r->paths);
    r->paths = NULL;
    for (int64_t i = 0; i < r->n_blocks; i++)
        nc_arena_put(r->blocks[i]);
    for (int64_t i = 0; i < r->n_trace_blocks; i++)
        nc_arena_put(r->trace_blocks[i]);
    free(r->trace_blocks);
    free(r->blocks);
    free(r->last);
    nc_schedule_free(&r->plan);
    r->blocks = NULL;
    r->last = NULL;
    r->n = r->n_blocks = r->cap_blocks = 0;
}

int64_t nc_record_bytes(const nc_record *r)
{
    int64_t bytes = r->peak_bytes + r->cap_blocks * (int64_t)sizeof(char *) +
                    r->n_trace_blocks * (r->traces_per_block * r->trace_bytes + (int64_t)sizeof(char *));
    if (r->limit)
        bytes += r->last_bytes + nc_schedule_bytes(r->plan.kind, r->plan.cap);
    return bytes;
}

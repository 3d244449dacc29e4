/* Opens the region of one instruction set. Define exactly one of NC_ISA_AVX512, NC_ISA_AVX2 and
 * NC_ISA_BASELINE first; isa_end.h closes the region.
 *
 *              vector   needs of the processor            fused multiply-add
 *   AVX512     64 B     AVX-512 F, DQ, BW, VL; AVX2; FMA   yes
 *   AVX2       32 B     AVX2, FMA                          yes
 *   BASELINE   16 B     what the compiler assumes anyway   where the ABI has it (aarch64)
 *
 * Sets NC_VBYTES and NC_HAS_FMA. Everything between the two files must be static: the same text is
 * compiled once an ISA. No compiler flag per file is needed, and system headers come first: they
 * must not be compiled for the wider instruction set. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
/* Names that vec.h shares with arm_neon.h, whose are the 8-byte vectors. */
#define vabs_f64 nc_vabs_f64
#define vabs_f32 nc_vabs_f32
#define vfma_f64 nc_vfma_f64
#define vfma_f32 nc_vfma_f32
#define vfms_f64 nc_vfms_f64
#define vfms_f32 nc_vfms_f32
#define vmax_f64 nc_vmax_f64
#define vmax_f32 nc_vmax_f32
#define vmin_f64 nc_vmin_f64
#define vmin_f32 nc_vmin_f32
#define vneg_f64 nc_vneg_f64
#define vneg_f32 nc_vneg_f32
#define vsqrt_f64 nc_vsqrt_f64
#define vsqrt_f32 nc_vsqrt_f32
#endif

#if defined(NC_ISA_AVX512)
#define NC_VBYTES 64
#define NC_HAS_FMA 1
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#elif defined(NC_ISA_AVX2)
#define NC_VBYTES 32
#define NC_HAS_FMA 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#elif defined(NC_ISA_BASELINE)
#define NC_VBYTES 16
#if defined(__aarch64__)
#define NC_HAS_FMA 1
#else
#define NC_HAS_FMA 0
#endif

#else
#error "define NC_ISA_AVX512, NC_ISA_AVX2 or NC_ISA_BASELINE"
#endif

/* Which intrinsics the region may use; none of the three: plain vector extensions. */
#if defined(__x86_64__) && !defined(NC_ISA_AVX512) && !defined(NC_ISA_AVX2)
#define NC_SSE2 1
#elif defined(__aarch64__)
#define NC_NEON 1
#endif

/* Vector functions are always inlined: a call would spill every vector register. */
#define NC_INLINE static inline __attribute__((always_inline, unused))

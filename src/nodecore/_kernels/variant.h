/* All templates for one ISA, float64 first. A stub defines NC_ISA_... and NC_ISA_NAME. */
#include <stdlib.h>

#include "backend.h"
#include "lanes/walk.h"
#include "simd/isa_begin.h"

#define NC_REAL_IS_F64 1
#include "simd/real_begin.h"
#include "simd/vec.h"
#include "simd/vmath.h"
#include "vm/vm.h"
#include "lanes/control.h"
#include "linalg/expm.h"
#include "variant_real.h"
#include "simd/real_end.h"
#undef NC_REAL_IS_F64

#define NC_REAL_IS_F32 1
#include "simd/real_begin.h"
#include "simd/vec.h"
#include "simd/vmath.h"
#include "vm/vm.h"
#include "variant_real.h"
#include "simd/real_end.h"
#undef NC_REAL_IS_F32

enum { VECTOR_BYTES = NC_VBYTES };
#include "simd/isa_end.h"

#define NC_PASTE_(a, b) a##b
#define NC_PASTE(a, b) NC_PASTE_(a, b)
#define NC_TEXT_(a) #a
#define NC_TEXT(a) NC_TEXT_(a)
#define NC_BACKEND(suffix, bytes)                                                                  \
    {                                                                                              \
        .isa = NC_TEXT(NC_ISA_NAME), .real_bytes = bytes, .vector_lanes = VECTOR_BYTES / bytes,    \
        .run = run_##suffix, .panel_layout = panel_layout_##suffix,                                \
        .panel_flush = panel_flush_##suffix, .forward = guarded_forward_##suffix,                  \
        .backward = guarded_backward_##suffix, .unroll = guarded_unroll_##suffix,                  \
        .lu_work = lu_work_##suffix, .lu = guarded_lu_##suffix                                     \
    }

const nc_backend NC_PASTE(nc_backend_f64_, NC_ISA_NAME) = NC_BACKEND(f64, 8);
const nc_backend NC_PASTE(nc_backend_f32_, NC_ISA_NAME) = NC_BACKEND(f32, 4);

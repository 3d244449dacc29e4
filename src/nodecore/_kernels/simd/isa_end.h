/* Closes what isa_begin.h opened. */
#if defined(NC_ISA_AVX512) || defined(NC_ISA_AVX2)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
#undef NC_VBYTES
#undef NC_HAS_FMA
#undef NC_SSE2
#undef NC_NEON
#undef NC_INLINE

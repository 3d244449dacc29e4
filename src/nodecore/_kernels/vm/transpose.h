/* v[r][l] <-> v[l][r] for VL x VL elements, by shuffles of whole vectors. */

#if defined(__clang__) || __GNUC__ >= 12
#define NC_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define NC_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (VI){__VA_ARGS__})
#endif

/* NC_SWAP_s: a row pair (r, r + s) exchanges its off-diagonal blocks of s lanes. In float32 the
 * steps s = 1 and 2 are one zip and one pairing inside 16 bytes, which are single instructions. */
#if defined(NC_REAL_IS_F64) && NC_VBYTES == 16
#define NC_LO_1 0, 2
#define NC_HI_1 1, 3
#elif defined(NC_REAL_IS_F64) && NC_VBYTES == 32
#define NC_LO_1 0, 4, 2, 6
#define NC_HI_1 1, 5, 3, 7
#define NC_LO_2 0, 1, 4, 5
#define NC_HI_2 2, 3, 6, 7
#elif defined(NC_REAL_IS_F64)
#define NC_LO_1 0, 8, 2, 10, 4, 12, 6, 14
#define NC_HI_1 1, 9, 3, 11, 5, 13, 7, 15
#define NC_LO_2 0, 1, 8, 9, 4, 5, 12, 13
#define NC_HI_2 2, 3, 10, 11, 6, 7, 14, 15
#define NC_LO_4 0, 1, 2, 3, 8, 9, 10, 11
#define NC_HI_4 4, 5, 6, 7, 12, 13, 14, 15
#elif NC_VBYTES == 16
#define NC_LO_1 0, 4, 1, 5
#define NC_HI_1 2, 6, 3, 7
#define NC_LO_2 0, 1, 4, 5
#define NC_HI_2 2, 3, 6, 7
#elif NC_VBYTES == 32
#define NC_LO_1 0, 8, 1, 9, 4, 12, 5, 13
#define NC_HI_1 2, 10, 3, 11, 6, 14, 7, 15
#define NC_LO_2 0, 1, 8, 9, 4, 5, 12, 13
#define NC_HI_2 2, 3, 10, 11, 6, 7, 14, 15
#define NC_LO_4 0, 1, 2, 3, 8, 9, 10, 11
#define NC_HI_4 4, 5, 6, 7, 12, 13, 14, 15
#else
#define NC_LO_1 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define NC_HI_1 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define NC_LO_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define NC_HI_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define NC_LO_4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define NC_HI_4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define NC_LO_8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define NC_HI_8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#endif

#define NC_STAGE(s)                                                                                \
    _Pragma("GCC unroll 16") for (int r = 0; r < VL; r++) if (!(r & s))                            \
    {                                                                                              \
        const VF a = v[r], b = v[r + s];                                                           \
        v[r] = NC_SHUFFLE(a, b, NC_LO_##s);                                                        \
        v[r + s] = NC_SHUFFLE(a, b, NC_HI_##s);                                                    \
    }

/* v[r][l] <-> v[l][r] */
NC_INLINE void FN(transpose)(VF *v)
{
#if defined(NC_REAL_IS_F64)
    NC_STAGE(1)
#if VL >= 4
    NC_STAGE(2)
#endif
#else
#pragma GCC unroll 4
    for (int q = 0; q < VL; q += 4) {
        const VF t0 = NC_SHUFFLE(v[q], v[q + 1], NC_LO_1), t1 = NC_SHUFFLE(v[q], v[q + 1], NC_HI_1);
        const VF t2 = NC_SHUFFLE(v[q + 2], v[q + 3], NC_LO_1);
        const VF t3 = NC_SHUFFLE(v[q + 2], v[q + 3], NC_HI_1);
        v[q] = NC_SHUFFLE(t0, t2, NC_LO_2);
        v[q + 1] = NC_SHUFFLE(t0, t2, NC_HI_2);
        v[q + 2] = NC_SHUFFLE(t1, t3, NC_LO_2);
        v[q + 3] = NC_SHUFFLE(t1, t3, NC_HI_2);
    }
#endif
#if VL >= 8
    NC_STAGE(4)
#endif
#if VL >= 16
    NC_STAGE(8)
#endif
}

#undef NC_SHUFFLE
#undef NC_LO_1
#undef NC_HI_1
#undef NC_LO_2
#undef NC_HI_2
#undef NC_LO_4
#undef NC_HI_4
#undef NC_LO_8
#undef NC_HI_8
#undef NC_STAGE

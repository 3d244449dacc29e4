#define NC_ISA_AVX2 1
#define NC_ISA_NAME avx2
#include "variant.h"

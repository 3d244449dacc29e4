#define NC_ISA_AVX512 1
#define NC_ISA_NAME avx512
#include "variant.h"

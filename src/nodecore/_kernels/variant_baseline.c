#define NC_ISA_BASELINE 1
#define NC_ISA_NAME baseline
#include "variant.h"

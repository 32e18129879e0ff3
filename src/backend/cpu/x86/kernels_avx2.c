/* The kernels for avx2: the templates over its 16-lane vector. */
#include "backend/cpu/x86/v16_avx2.h"

#include "backend/cpu/attend.inc.h"
#include "backend/cpu/score.inc.h"
#include "backend/cpu/compress.inc.h"
#include "backend/cpu/pack.inc.h"

#define KVF_TABLE kvf_cpu_kernels_avx2
#define KVF_TABLE_ISA "avx2"
#define KVF_PRODUCT_ISA avx2
#include "backend/cpu/table.inc.h"

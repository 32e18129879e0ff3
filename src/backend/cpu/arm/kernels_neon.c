/* The kernels for neon: the templates over its 16-lane vector. */
#include "backend/cpu/arm/v16_neon.h"

#include "backend/cpu/attend.inc.h"
#include "backend/cpu/score.inc.h"
#include "backend/cpu/compress.inc.h"
#include "backend/cpu/pack.inc.h"

#define KVF_TABLE kvf_cpu_kernels_neon
#define KVF_TABLE_ISA "neon"
#define KVF_PRODUCT_ISA neon
#include "backend/cpu/table.inc.h"

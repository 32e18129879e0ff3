/* The kernels for scalar: the templates over its 16-lane vector. */
#include "backend/cpu/v16_scalar.h"

#include "backend/cpu/attend.inc.h"
#include "backend/cpu/score.inc.h"
#include "backend/cpu/compress.inc.h"
#include "backend/cpu/pack.inc.h"

#define KVF_TABLE kvf_cpu_kernels_scalar
#define KVF_TABLE_ISA "scalar"
#define KVF_PRODUCT_ISA scalar
#include "backend/cpu/table.inc.h"

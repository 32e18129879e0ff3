/* Products for avx2: the template over its 16-lane vector. */
#include "backend/cpu/x86/v16_avx2.h"

#define KVF_PRODUCT_ISA avx2
#include "backend/cpu/product.inc.h"

/* Products for avx512 and avx512vnni: the template over its 16-lane vector. */
#include "backend/cpu/x86/v16_avx512.h"

#define KVF_PRODUCT_ISA avx512
#include "backend/cpu/product.inc.h"

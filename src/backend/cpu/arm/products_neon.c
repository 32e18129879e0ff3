/* Products for neon: the template over its 16-lane vector. */
#include "backend/cpu/arm/v16_neon.h"

#define KVF_PRODUCT_ISA neon
#include "backend/cpu/product.inc.h"

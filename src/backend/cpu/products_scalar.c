/* Products for scalar: the template over its 16-lane vector. */
#include "backend/cpu/v16_scalar.h"

#define KVF_PRODUCT_ISA scalar
#include "backend/cpu/product.inc.h"

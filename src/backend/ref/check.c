/* check: the first value of each row that is not finite. */
#include "backend/ref/ref.h"

#include <math.h>

static void check_rows(const kvf_check_args *args, kvf_findings found)
{
    for (uint64_t row = 0; row < args->n_rows; row++)
        for (uint32_t i = 0; i < args->width; i++)
            if (!isfinite(args->values[row * args->width + i]))
                kvf_found_lower(found, false, row, i, KVF_NONFINITE);
}

void kvf_ref_check(kvf_device *device, const kvf_check_args *args, const kvf_findings *found,
                   uint32_t n)
{
    (void)device;
    for (uint32_t i = 0; i < n; i++)
        check_rows(&args[i], found[i]);
}

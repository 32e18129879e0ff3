#include "cli/isa_names.h"

#include <stdio.h>
#include <string.h>

static const char *const names[CLI_ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512vnni", "neon"};

const char *cli_isa_name(uint32_t i)
{
    return names[i];
}

bool cli_isa_find(const char *name, uint32_t *set, char *reason, size_t reason_bytes)
{
    if (strcmp(name, "all") == 0) {
        *set |= CLI_ISAS_ALL | (CLI_ISAS_ALL - 1);
        return true;
    }
    for (uint32_t i = 0; i < CLI_ISA_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *set |= 1u << i;
            return true;
        }
    }
    snprintf(reason, reason_bytes,
             "no ISA '%.40s'; there are: scalar, avx2, avx512, avx512vnni, neon, and all", name);
    return false;
}

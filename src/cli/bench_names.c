#include "cli/bench_names.h"

#include <stdio.h>
#include <string.h>

#include "bench/case.h"
#include "bench/matmul.h"
#include "bench/measure.h"

/* Behind the stages of bench/case.h. */
static const char *const other_names[] = {"batch", "matmul"};
enum { N_OTHERS = sizeof other_names / sizeof *other_names };
_Static_assert(BENCH_STAGE_COUNT < 30, "the last bits of a set of stages are batch's and matmul's");
_Static_assert(KVF_WEIGHT_COUNT <= 32, "a set of types has 32 bits");
_Static_assert(CLI_BENCH_MAX_RUNS == (int)BENCH_MAX_RUNS, "--runs takes as many as are measured");

static const char *profile_name(int i)
{
    return bench_profile_name((bench_profile)i);
}

static const char *stage_name(int i)
{
    return i < BENCH_STAGE_COUNT ? bench_stage_name((bench_stage)i)
                                 : other_names[i - BENCH_STAGE_COUNT];
}

static const char *type_name(int i)
{
    return bench_matmul_type_name((uint32_t)i);
}

/* "pack, pack_index, select" */
static void explain(const char *what, const char *name, const char *(*name_of)(int), int n,
                    char *reason, size_t reason_bytes)
{
    size_t used = (size_t)snprintf(reason, reason_bytes, "no %s '%.40s'; there are: ", what, name);
    for (int i = 0; i < n && used < reason_bytes; i++)
        used +=
            (size_t)snprintf(reason + used, reason_bytes - used, "%s%s", i ? ", " : "", name_of(i));
}

bool cli_bench_find_profile(const char *name, uint32_t *set, char *reason, size_t reason_bytes)
{
    for (int i = 0; i < BENCH_PROFILE_COUNT; i++) {
        if (strcmp(name, profile_name(i)) == 0) {
            *set |= 1u << i;
            return true;
        }
    }
    explain("profile", name, profile_name, BENCH_PROFILE_COUNT, reason, reason_bytes);
    return false;
}

bool cli_bench_find_stage(const char *name, uint32_t *set, char *reason, size_t reason_bytes)
{
    const size_t length = strlen(name);
    uint32_t found = 0;
    for (int i = 0; i < BENCH_STAGE_COUNT && length; i++) {
        const char *known = stage_name(i);
        if (strncmp(name, known, length) == 0 && (known[length] == '\0' || known[length] == '_'))
            found |= 1u << i;
    }
    for (int i = 0; i < N_OTHERS; i++)
        if (strcmp(name, other_names[i]) == 0)
            found = CLI_BENCH_BATCH << i;
    if (!found)
        explain("stage", name, stage_name, BENCH_STAGE_COUNT + N_OTHERS, reason, reason_bytes);
    *set |= found;
    return found != 0;
}

bool cli_bench_find_type(const char *name, uint32_t *set, char *reason, size_t reason_bytes)
{
    for (int i = 0; i < KVF_WEIGHT_COUNT; i++) {
        if (strcmp(name, type_name(i)) == 0) {
            *set |= 1u << i;
            return true;
        }
    }
    explain("type", name, type_name, KVF_WEIGHT_COUNT, reason, reason_bytes);
    return false;
}

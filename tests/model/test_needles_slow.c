/* Long needles: 4k and 16k in every other profile, 64k and 96k in all. */
#include "model/needle.h"

static engine cpu;

static void needles_of_4k_and_16k_are_found_in_the_other_profiles(void **state)
{
    (void)state;
    for (int profile = 0; profile < KVF_PROFILE_FOLD; profile++) {
        all_needles_are_found(&cpu, 4096, (kvf_profile_id)profile);
        all_needles_are_found(&cpu, 16384, (kvf_profile_id)profile);
    }
}

static void needles_of_64k_and_96k_are_found_in_every_profile(void **state)
{
    (void)state;
    for (int profile = KVF_PROFILE_COUNT - 1; profile >= 0; profile--) {
        all_needles_are_found(&cpu, 65536, (kvf_profile_id)profile);
        all_needles_are_found(&cpu, 98304, (kvf_profile_id)profile);
    }
}

static int setup(void **state)
{
    (void)state;
    cpu = engine_open("cpu", 4096);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    engine_close(&cpu);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(needles_of_4k_and_16k_are_found_in_the_other_profiles),
        cmocka_unit_test(needles_of_64k_and_96k_are_found_in_every_profile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

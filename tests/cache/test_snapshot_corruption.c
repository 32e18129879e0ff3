/* 20,000 corruptions, a quarter of them of a compressed file. */
#include "snapshot_support.h"

static void no_corruption_goes_unnoticed(void **state)
{
    (void)state;
    snap_corrupt(20000, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_corruption_goes_unnoticed)};
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}

/* 20,000 corruptions, a quarter of them of a compressed file; 3,000 forgeries. */
#include "snapshot_support.h"

static void no_corruption_goes_unnoticed(void **state)
{
    (void)state;
    snap_corrupt(20000, 1);
}

static void no_forgery_crashes(void **state)
{
    (void)state;
    snap_forge(3000, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_corruption_goes_unnoticed),
                                       cmocka_unit_test(no_forgery_crashes)};
    return cmocka_run_group_tests(tests, snap_setup, snap_teardown);
}

/*
 * The part of cmocka that the conformance suite uses, for cross builds: there is no
 * cmocka package for the target. Same names, same meaning; native builds use cmocka.
 */
#ifndef KVF_TEST_CROSS_CMOCKA_H
#define KVF_TEST_CROSS_CMOCKA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int (*CMFixtureFunction)(void **state);

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    CMFixtureFunction setup_func;
    CMFixtureFunction teardown_func;
    void *initial_state;
};

/* Returns the number of failed tests. */
int _cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t n_tests,
                            CMFixtureFunction setup, CMFixtureFunction teardown);

/* These leave the running test. */
__attribute__((noreturn)) void cross_skip(void);
__attribute__((noreturn, format(printf, 3, 4))) void cross_fail(const char *file, int line,
                                                                const char *format, ...);
/* Fails unless (a == b) == expected. */
void cross_compare(const char *file, int line, intmax_t a, intmax_t b, bool expected);
void cross_compare_memory(const char *file, int line, const void *a, const void *b, size_t bytes);

#define assert_true(c) ((c) ? (void)0 : cross_fail(__FILE__, __LINE__, "%s is false", #c))
#define assert_false(c) assert_true(!(c))
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_null(p) assert_true((p) == NULL)
#define assert_int_equal(a, b) cross_compare(__FILE__, __LINE__, (intmax_t)(a), (intmax_t)(b), true)
#define assert_int_not_equal(a, b)                                                                 \
    cross_compare(__FILE__, __LINE__, (intmax_t)(a), (intmax_t)(b), false)
#define assert_memory_equal(a, b, bytes) cross_compare_memory(__FILE__, __LINE__, a, b, bytes)
#define fail_msg(...) cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define skip() cross_skip()

/* clang-format off */
#define cmocka_unit_test(f) {#f, f, NULL, NULL, NULL}
/* clang-format on */
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    _cmocka_run_group_tests(#tests, tests, sizeof(tests) / sizeof(tests)[0], setup, teardown)

#endif

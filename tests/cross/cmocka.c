#include "cmocka.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

enum outcome { PASSED, FAILED, SKIPPED };

/* Back to the running test's caller. cmocka's interface leaves no place but this one. */
static jmp_buf leave_test;

void cross_skip(void)
{
    longjmp(leave_test, SKIPPED);
}

void cross_fail(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    longjmp(leave_test, FAILED);
}

void cross_compare(const char *file, int line, intmax_t a, intmax_t b, bool expected)
{
    if ((a == b) != expected)
        cross_fail(file, line, "%" PRIdMAX " %s %" PRIdMAX, a, expected ? "!=" : "==", b);
}

void cross_compare_memory(const char *file, int line, const void *a, const void *b, size_t bytes)
{
    const unsigned char *const left = a;
    const unsigned char *const right = b;
    for (size_t i = 0; i < bytes; i++)
        if (left[i] != right[i])
            cross_fail(file, line, "memory differs at byte %zu of %zu", i, bytes);
}

static enum outcome call(const struct CMUnitTest *test, void **state)
{
    switch (setjmp(leave_test)) {
    case PASSED: test->test_func(state); return PASSED;
    case SKIPPED: return SKIPPED;
    default: return FAILED;
    }
}

/* One test between its fixtures. */
static enum outcome run_test(const struct CMUnitTest *test, void *group_state)
{
    void *state = test->initial_state ? test->initial_state : group_state;
    enum outcome outcome = FAILED;
    if (!test->setup_func || test->setup_func(&state) == 0)
        outcome = call(test, &state);
    if (test->teardown_func && test->teardown_func(&state) != 0)
        outcome = FAILED;
    return outcome;
}

int _cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t n_tests,
                            CMFixtureFunction setup, CMFixtureFunction teardown)
{
    static const char *const words[] = {"PASSED", "FAILED", "SKIPPED"};
    void *state = NULL;
    int n_failed = 0;
    if (setup && setup(&state) != 0) {
        fprintf(stderr, "%s: the group's setup failed\n", name);
        return 1;
    }
    for (size_t i = 0; i < n_tests; i++) {
        const enum outcome outcome = run_test(&tests[i], state);
        n_failed += outcome == FAILED;
        fprintf(stderr, "[ %7s ] %s\n", words[outcome], tests[i].name);
    }
    if (teardown && teardown(&state) != 0)
        n_failed++;
    fprintf(stderr, "%s: %zu tests, %d failed\n", name, n_tests, n_failed);
    return n_failed;
}

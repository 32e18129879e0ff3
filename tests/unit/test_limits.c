/*
 * Limits of a process, from trees of files as Linux shows them: both versions of cgroups,
 * every level, containers, and files that are not there or make no sense.
 */
#include "engine/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MB (UINT64_C(1) << 20)

static char root[64];

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/kvfold-limits-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

/* Writes a file below the root, with the folders that lead there. */
static void put(const char *path, const char *content)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *c = whole + strlen(root) + 1; *c; c++) {
        if (*c != '/')
            continue;
        *c = '\0';
        mkdir(whole, S_IRWXU);
        *c = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    fputs(content, file);
    assert_int_equal(fclose(file), 0);
}

static void put_number(const char *folder, const char *name, uint64_t value)
{
    char path[256];
    char text[32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(text, sizeof text, "%llu\n", (unsigned long long)value);
    put(path, text);
}

static kvf_limits find_with(uint64_t data_bytes, uint64_t address_bytes)
{
    const kvf_system system = {.root = root,
                               .machine_bytes = 1000 * MB,
                               .data_bytes = data_bytes,
                               .address_bytes = address_bytes,
                               .page_bytes = 4096};
    kvf_limits limits;
    kvf_limits_find(&system, &limits);
    return limits;
}

static kvf_limit memory(void)
{
    return find_with(UINT64_MAX, UINT64_MAX).tightest[KVF_LIMIT_MEMORY];
}

static void expect(kvf_limit limit, const char *name, uint64_t bytes, uint64_t left_bytes)
{
    assert_string_equal(limit.name, name);
    assert_int_equal(limit.bytes, bytes);
    assert_int_equal(limit.left_bytes, left_bytes);
}

#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNT                                                                                   \
    "31 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"                  \
    "35 23 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"

/* ---- The machine and the process ------------------------------------------------------ */

static void without_files_there_is_the_machine(void **state)
{
    (void)state;
    const kvf_limits limits = find_with(UINT64_MAX, UINT64_MAX);
    expect(limits.tightest[KVF_LIMIT_MEMORY], "this machine", 1000 * MB, 1000 * MB);
    assert_int_equal(limits.tightest[KVF_LIMIT_DATA].left_bytes, UINT64_MAX);
    assert_int_equal(limits.tightest[KVF_LIMIT_ADDRESSES].left_bytes, UINT64_MAX);
    assert_int_equal(limits.slow.left_bytes, UINT64_MAX);
}

static void what_others_use_is_not_free_unless_it_can_be_swapped(void **state)
{
    (void)state;
    put("/proc/meminfo", "MemTotal:         819200 kB\nMemFree:     1 kB\n"
                         "MemAvailable:     102400 kB\nSwapFree:              0 kB\n");
    expect(memory(), "this machine", 800 * MB, 100 * MB);
    put("/proc/meminfo", "MemTotal:         819200 kB\nMemAvailable:     102400 kB\n"
                         "SwapFree:         204800 kB\n");
    expect(memory(), "this machine", 800 * MB, 300 * MB);
    /* Never more than there is: what does not fit the machine would swap itself out. */
    put("/proc/meminfo", "MemTotal:         819200 kB\nMemAvailable:     716800 kB\n"
                         "SwapFree:       99204800 kB\n");
    expect(memory(), "this machine", 800 * MB, 800 * MB);
}

static void limits_of_the_process_count_what_it_has(void **state)
{
    (void)state;
    put("/proc/self/statm", "25600 5000 900 300 0 12800 0\n"); /* 100 MB, 50 MB of them data */
    const kvf_limits limits = find_with(80 * MB, 300 * MB);
    expect(limits.tightest[KVF_LIMIT_DATA], "this process's data limit (ulimit -d)", 80 * MB,
           30 * MB);
    expect(limits.tightest[KVF_LIMIT_ADDRESSES], "this process's address limit (ulimit -v)",
           300 * MB, 200 * MB);
    /* A limit that was lowered below what is there leaves nothing, and not 2^64. */
    assert_int_equal(find_with(10 * MB, 10 * MB).tightest[KVF_LIMIT_DATA].left_bytes, 0);
    put("/proc/self/statm", "who knows\n");
    assert_int_equal(find_with(80 * MB, UINT64_MAX).tightest[KVF_LIMIT_DATA].left_bytes, 80 * MB);
}

static void without_overcommit_all_that_is_asked_for_counts(void **state)
{
    (void)state;
    put("/proc/meminfo", "MemTotal:  819200 kB\nCommitLimit:  409600 kB\n"
                         "Committed_AS:  307200 kB\n");
    put("/proc/sys/vm/overcommit_memory", "1\n");
    assert_int_equal(find_with(UINT64_MAX, UINT64_MAX).tightest[KVF_LIMIT_DATA].left_bytes,
                     UINT64_MAX);
    put("/proc/sys/vm/overcommit_memory", "2\n");
    expect(find_with(UINT64_MAX, UINT64_MAX).tightest[KVF_LIMIT_DATA],
           "the system (vm.overcommit_memory is 2)", 400 * MB, 100 * MB);
    expect(find_with(90 * MB, UINT64_MAX).tightest[KVF_LIMIT_DATA],
           "this process's data limit (ulimit -d)", 90 * MB, 90 * MB);
}

/* ---- cgroups ------------------------------------------------------------------------------ */

static void v2_counts_every_level_and_what_can_be_dropped(void **state)
{
    (void)state;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/user.slice/run.scope\n");
    put("/sys/fs/cgroup/user.slice/run.scope/memory.max", "max\n");
    assert_string_equal(memory().name, "this machine");
    put_number("/sys/fs/cgroup/user.slice", "memory.max", 400 * MB);
    put_number("/sys/fs/cgroup/user.slice", "memory.current", 250 * MB);
    put("/sys/fs/cgroup/user.slice/memory.stat",
        "anon 1\nfile 104857600\nactive_file 52428800\ninactive_file 31457280\n");
    expect(memory(), "memory.max of the cgroup /sys/fs/cgroup/user.slice", 400 * MB, 230 * MB);
    put_number("/sys/fs/cgroup/user.slice/run.scope", "memory.max", 120 * MB);
    put_number("/sys/fs/cgroup/user.slice/run.scope", "memory.current", 20 * MB);
    expect(memory(), "memory.max of the cgroup /sys/fs/cgroup/user.slice/run.scope", 120 * MB,
           100 * MB);
    put_number("/sys/fs/cgroup/user.slice/run.scope", "memory.current", 500 * MB);
    assert_int_equal(memory().left_bytes, 0);
}

static void swap_helps_where_every_level_has_some(void **state)
{
    (void)state;
    put("/proc/meminfo", "MemTotal: 1024000 kB\nSwapFree: 1024000 kB\n");
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/a/b\n");
    put_number("/sys/fs/cgroup/a/b", "memory.max", 300 * MB);
    put_number("/sys/fs/cgroup/a/b", "memory.current", 200 * MB);
    put("/sys/fs/cgroup/a/b/memory.swap.max", "max\n");
    assert_int_equal(memory().left_bytes, 300 * MB); /* all others of the group swapped out */
    put_number("/sys/fs/cgroup/a", "memory.swap.max", 60 * MB);
    put_number("/sys/fs/cgroup/a", "memory.swap.current", 20 * MB);
    assert_int_equal(memory().left_bytes, 140 * MB);
    put_number("/sys/fs/cgroup/a/b", "memory.swap.max", 0);
    assert_int_equal(memory().left_bytes, 100 * MB);
}

static void memory_high_slows_and_refuses_nothing(void **state)
{
    (void)state;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/a\n");
    put_number("/sys/fs/cgroup/a", "memory.high", 200 * MB);
    put_number("/sys/fs/cgroup/a", "memory.current", 50 * MB);
    const kvf_limits limits = find_with(UINT64_MAX, UINT64_MAX);
    assert_string_equal(limits.tightest[KVF_LIMIT_MEMORY].name, "this machine");
    expect(limits.slow, "memory.high of the cgroup /sys/fs/cgroup/a", 200 * MB, 150 * MB);
}

static void v1_counts_every_level(void **state)
{
    (void)state;
    put("/proc/self/mountinfo", V1_MOUNT);
    put("/proc/self/cgroup", "5:cpu,cpuacct:/wrong\n4:memory:/a/b\n0::/wrong\n");
    put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    assert_string_equal(memory().name, "this machine");
    put_number("/sys/fs/cgroup/memory/a", "memory.limit_in_bytes", 300 * MB);
    put_number("/sys/fs/cgroup/memory/a", "memory.usage_in_bytes", 120 * MB);
    put("/sys/fs/cgroup/memory/a/memory.stat",
        "inactive_file 1\ntotal_inactive_file 20971520\ntotal_active_file 0\n");
    expect(memory(), "memory.limit_in_bytes of the cgroup /sys/fs/cgroup/memory/a", 300 * MB,
           200 * MB);
    /* Where groups of a group are not counted for it, its limit is not theirs. */
    put_number("/sys/fs/cgroup/memory/a", "memory.use_hierarchy", 0);
    assert_string_equal(memory().name, "this machine");
    put_number("/sys/fs/cgroup/memory/a", "memory.use_hierarchy", 1);
    put_number("/sys/fs/cgroup/memory/a/b", "memory.memsw.limit_in_bytes", 90 * MB);
    put_number("/sys/fs/cgroup/memory/a/b", "memory.memsw.usage_in_bytes", 10 * MB);
    expect(memory(), "memory.memsw.limit_in_bytes of the cgroup /sys/fs/cgroup/memory/a/b", 90 * MB,
           80 * MB);
}

static void both_versions_beside_each_other(void **state)
{
    (void)state;
    put("/proc/self/mountinfo",
        V1_MOUNT "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup", "4:memory:/a\n0::/b\n");
    put_number("/sys/fs/cgroup/memory/a", "memory.limit_in_bytes", 300 * MB);
    put_number("/sys/fs/cgroup/unified/b", "memory.max", 200 * MB);
    expect(memory(), "memory.max of the cgroup /sys/fs/cgroup/unified/b", 200 * MB, 200 * MB);
    put_number("/sys/fs/cgroup/memory/a", "memory.limit_in_bytes", 100 * MB);
    expect(memory(), "memory.limit_in_bytes of the cgroup /sys/fs/cgroup/memory/a", 100 * MB,
           100 * MB);
}

static void a_container_sees_its_group_as_the_mount(void **state)
{
    (void)state;
    /* The path is the host's, the mount begins at the group. */
    put("/proc/self/mountinfo", "9 8 0:1 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    put("/proc/self/cgroup", "0::/docker/abc\n");
    put_number("/sys/fs/cgroup", "memory.max", 111 * MB);
    expect(memory(), "memory.max of the cgroup /sys/fs/cgroup", 111 * MB, 111 * MB);
    put("/proc/self/cgroup", "0::/docker/abc/inner\n");
    put_number("/sys/fs/cgroup/inner", "memory.max", 55 * MB);
    assert_int_equal(memory().bytes, 55 * MB);
    /* Another group's name that begins alike, and a path that leads out of what is seen. */
    put("/proc/self/cgroup", "0::/docker/abcdef\n");
    assert_int_equal(memory().bytes, 111 * MB);
    put("/proc/self/cgroup", "0::/../other\n");
    assert_int_equal(memory().bytes, 111 * MB);
    /* Of several mounts the one that shows the process's group. */
    put("/proc/self/mountinfo", "9 8 0:1 /other /mnt rw - cgroup2 cgroup rw\n"
                                "9 8 0:1 / /with\\040space rw - cgroup2 cgroup rw\n");
    put("/proc/self/cgroup", "0::/x\n");
    put_number("/mnt", "memory.max", 5 * MB);
    put_number("/with space/x", "memory.max", 77 * MB);
    expect(memory(), "memory.max of the cgroup /with space/x", 77 * MB, 77 * MB);
}

static void nonsense_sets_no_limit(void **state)
{
    static const char *const numbers[] = {
        "",        "\n",         "maximum\n", "-1\n",
        "12 MB\n", "0x100000\n", "1e6\n",     "99999999999999999999999\n"};
    static const char *const mounts[] = {"",
                                         "\n",
                                         "30 23\n",
                                         "30 23 0:26 / /sys - \n",
                                         " - cgroup2",
                                         "30 23 0:26 / sys rw - cgroup2 cgroup2 rw\n",
                                         "30 23 0:26 / /sys rw - cgroup cgroup\n"};
    static const char *const groups[] = {"", "\n", "0:\n", "0::\n", "::/a\n", "0::a\n", "x"};
    (void)state;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/a\n");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        put("/sys/fs/cgroup/a/memory.max", numbers[i]);
        assert_string_equal(memory().name, "this machine");
    }
    put_number("/sys/fs/cgroup/a", "memory.max", 1 * MB);
    put("/sys/fs/cgroup/a/memory.stat", "active_file many\ninactive_file 1x\n");
    assert_int_equal(memory().bytes, 1 * MB);
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        put("/proc/self/mountinfo", mounts[i]);
        assert_string_equal(memory().name, "this machine");
    }
    put("/proc/self/mountinfo", V2_MOUNT);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        put("/proc/self/cgroup", groups[i]);
        assert_string_equal(memory().name, "this machine");
    }
    put("/proc/self/cgroup", "0::/a\n");
    assert_int_equal(memory().bytes, 1 * MB); /* the test would see a limit */
}

static void this_process_has_limits(void **state)
{
    (void)state;
    kvf_limits limits;
    kvf_limits_read(&limits);
    assert_true(limits.tightest[KVF_LIMIT_MEMORY].bytes > 0);
    assert_true(limits.tightest[KVF_LIMIT_MEMORY].bytes < UINT64_MAX);
    kvf_limits_lower(&limits, KVF_LIMIT_MEMORY, "the GPU", 5, 7);
    expect(limits.tightest[KVF_LIMIT_MEMORY], "the GPU", 5, 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(without_files_there_is_the_machine),
        TEST(what_others_use_is_not_free_unless_it_can_be_swapped),
        TEST(limits_of_the_process_count_what_it_has),
        TEST(without_overcommit_all_that_is_asked_for_counts),
        TEST(v2_counts_every_level_and_what_can_be_dropped),
        TEST(swap_helps_where_every_level_has_some),
        TEST(memory_high_slows_and_refuses_nothing),
        TEST(v1_counts_every_level),
        TEST(both_versions_beside_each_other),
        TEST(a_container_sees_its_group_as_the_mount),
        TEST(nonsense_sets_no_limit),
        TEST(this_process_has_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

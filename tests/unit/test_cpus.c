/*
 * How many threads are opened by default (src/backend/cpu/cpus.h): the affinity mask, and CPU
 * quotas as systems, containers and containers without a namespace of their own show them.
 */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/cpu/cpus.h"
#include "kvfold.h"
#include "test_support.h"

static char root[64];

/* Writes a file below root, its folders too. */
static void put(const char *path, const char *text)
{
    char name[512];
    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *slash = strchr(name + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(name, 0700);
        *slash = '/';
    }
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* A fresh system: one line of /proc/self/cgroup each, and what is mounted. */
static void start(const char *cgroup, const char *mountinfo)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
    assert_int_equal(mkdir(root, 0700), 0);
    put("/proc/self/cgroup", cgroup);
    put("/proc/self/mountinfo", mountinfo);
}

#define V2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define OTHER_MOUNTS                                                                               \
    "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"                                               \
    "22 21 0:20 / /proc rw - proc proc rw\n"
#define NONE UINT32_MAX

static void assert_quota(uint32_t expected)
{
    assert_int_equal(kvf_cpus_quota(root), expected);
}

static void version_2_counts_at_every_level(void **state)
{
    (void)state;
    start("0::/user.slice/job/step\n", OTHER_MOUNTS V2);
    assert_quota(NONE);
    put("/sys/fs/cgroup/user.slice/job/step/cpu.max", "max 100000\n");
    assert_quota(NONE);
    put("/sys/fs/cgroup/user.slice/job/cpu.max", "350000 100000\n");
    assert_quota(4);
    put("/sys/fs/cgroup/user.slice/cpu.max", "300000 100000\n");
    assert_quota(3);
    put("/sys/fs/cgroup/cpu.max", "250000 125000\n");
    assert_quota(2);
    put("/sys/fs/cgroup/user.slice/job/step/cpu.max", "1000 100000\n");
    assert_quota(1);
}

static void version_1_is_one_of_many_trees(void **state)
{
    (void)state;
    start("5:cpuset:/a\n4:cpu,cpuacct:/job\n3:cpuacct:/b\n1:name=systemd:/c\n", OTHER_MOUNTS
          "33 30 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
          "34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n");
    put("/sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us", "100000\n");
    put("/sys/fs/cgroup/cpuset/a/cpu.cfs_period_us", "100000\n");
    assert_quota(NONE);
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    assert_quota(NONE);
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "120000\n");
    assert_quota(NONE); /* without a period it says nothing */
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n");
    assert_quota(3);
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "100001\n");
    assert_quota(2);
}

/* Both versions are mounted, as between the two; the smaller quota holds. */
static void both_versions_together(void **state)
{
    (void)state;
    start("1:cpu:/\n0::/a\n", "34 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
                              "35 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "700000\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_quota(7);
    put("/sys/fs/cgroup/unified/a/cpu.max", "200000 100000\n");
    assert_quota(2);
}

/* A container sees its own group as the top of what is mounted, by one name or another. */
static void containers(void **state)
{
    (void)state;
    start("4:cpu:/docker/1f2e/inner\n",
          "34 30 0:31 /docker/1f2e /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "500000\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_quota(5);
    put("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "400000\n");
    put("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n");
    assert_quota(4);
    /* A group outside of what is mounted, and one above the namespace's top. */
    static const char *const elsewhere[] = {"0::/docker/other\n", "0::/../../other\n", "0::/\n"};
    for (int i = 0; i < 3; i++) {
        start(elsewhere[i],
              i == 0 ? "30 23 0:26 /docker/1f2e /sys/fs/cgroup rw - cgroup2 c rw\n" : V2);
        put("/sys/fs/cgroup/cpu.max", "600000 100000\n");
        put("/other/cpu.max", "100000 100000\n");
        assert_quota(6);
    }
    /* A space in the mount's path. */
    start("0::/a\n", "30 23 0:26 / /control\\040groups rw - cgroup2 c rw\n");
    put("/control groups/a/cpu.max", "900000 100000\n");
    assert_quota(9);
}

static void what_cannot_be_read_is_no_quota(void **state)
{
    (void)state;
    static const char *const lines[] = {"", "\n", "0", "0:", "0::", "::::\n", "nonsense\n"};
    static const char *const mounts[] = {
        "", "\n", " - \n", " - cgroup2\n", "a b", "1 2 3 - cgroup2 c rw\n", "- - -\n"};
    static const char *const quotas[] = {"",       "\n",   "max\n",   "0 100000\n", "100000 0\n",
                                         "100000", "-5 1", "max max", "x y\n"};
    for (size_t i = 0; i < 7; i++) {
        start(lines[i], mounts[i]);
        assert_quota(NONE);
        start("0::/a\n", mounts[i]);
        assert_quota(NONE);
    }
    start("0::/a\n", V2);
    for (size_t i = 0; i < sizeof quotas / sizeof *quotas; i++) {
        put("/sys/fs/cgroup/a/cpu.max", quotas[i]);
        assert_quota(NONE);
    }
    put("/sys/fs/cgroup/a/cpu.max", "99999999999999999999999 1\n");
    assert_quota(NONE);
    put("/sys/fs/cgroup/a/cpu.max", "18446744073709551615 18446744073709551615\n");
    assert_quota(1);
}

static void the_affinity_mask_counts(void **state)
{
    (void)state;
    cpu_set_t before;
    cpu_set_t one;
    const uint32_t all = kvf_cpus_available();
    assert_true(all >= 1);
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_true(all <= (uint32_t)CPU_COUNT(&before));
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(kvf_cpus_available(), 1);
    kvf_device *device;
    assert_int_equal(kvf_device_open(NULL, &device, NULL), KVF_OK);
    assert_int_equal(kvf_device_n_threads(device), 1);
    kvf_device_close(device);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/kvfold-cpus-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_2_counts_at_every_level),
        cmocka_unit_test(version_1_is_one_of_many_trees),
        cmocka_unit_test(both_versions_together),
        cmocka_unit_test(containers),
        cmocka_unit_test(what_cannot_be_read_is_no_quota),
        cmocka_unit_test(the_affinity_mask_counts),
    };
    return cmocka_run_group_tests_name("cpus", tests, make_root, remove_root);
}

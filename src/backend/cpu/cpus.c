#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity and its sets */
#endif
#include "backend/cpu/cpus.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

/* ---- Control groups --------------------------------------------------------------- */

/* A control group's folder: where its tree is mounted, and the way from there. */
typedef struct cpu_group {
    bool is_v2;
    char mount[2048];
    char path[2048]; /* of the group in its tree, "/" or "/a/b" */
} cpu_group;

/* Whether a list "a,b,c" has an entry. */
static bool list_has(const char *list, const char *entry)
{
    const size_t length = strlen(entry);
    while (*list) {
        const size_t n = strcspn(list, ",");
        if (n == length && strncmp(list, entry, n) == 0)
            return true;
        list += list[n] ? n + 1 : n;
    }
    return false;
}

/* The rest of `path` below `folder`, or NULL: "/a/b" below "/a" is "/b", below "/" itself. */
static const char *path_below(const char *path, const char *folder)
{
    const size_t n = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == '\0') ? path + n : NULL;
}

/* mountinfo writes a space and the like as \040. */
static void undo_escapes(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned code;
        if (*from == '\\' && sscanf(from + 1, "%3o", &code) == 1 && strlen(from) >= 4) {
            *to = (char)code;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/*
 * A line of mountinfo, "id parent device ROOT MOUNT options .. - TYPE source SUPER": whether
 * it mounts the group's tree. The path is then made one from the mount's own root.
 */
static bool take_mount(char *line, cpu_group *group)
{
    char *fields[5];
    char *rest = NULL;
    char *after = strstr(line, " - ");
    if (!after)
        return false;
    *after = '\0';
    char *type = strtok_r(after + 3, " \n", &rest);
    strtok_r(NULL, " \n", &rest);
    const char *super = strtok_r(NULL, " \n", &rest);
    if (!type || strcmp(type, group->is_v2 ? "cgroup2" : "cgroup") != 0 ||
        (!group->is_v2 && (!super || !list_has(super, "cpu"))))
        return false;
    char *next = line;
    for (int i = 0; i < 5; i++, next = NULL)
        if (!(fields[i] = strtok_r(next, " ", &rest)))
            return false;
    undo_escapes(fields[3]);
    undo_escapes(fields[4]);
    if (strlen(fields[4]) >= sizeof group->mount)
        return false;
    strcpy(group->mount, fields[4]);
    /* In a container the group's path may be one that is not mounted: its top then is. */
    const char *below = strstr(group->path, "/..") ? NULL : path_below(group->path, fields[3]);
    memmove(group->path, below ? below : "", strlen(below ? below : "") + 1);
    return true;
}

static FILE *open_below(const char *root, const char *path)
{
    char name[4096];
    const int n = snprintf(name, sizeof name, "%s%s", root, path);
    return n > 0 && (size_t)n < sizeof name ? fopen(name, "re") : NULL;
}

static bool find_mount(const char *root, cpu_group *group)
{
    FILE *file = open_below(root, "/proc/self/mountinfo");
    char *line = NULL;
    size_t line_bytes = 0;
    bool found = false;
    while (file && !found && getline(&line, &line_bytes, file) > 0)
        found = take_mount(line, group);
    free(line);
    if (file)
        fclose(file);
    return found;
}

/* The first line of a file of the group's folder, where it is a number. */
static bool read_line(const char *root, const cpu_group *group, const char *name, char text[64])
{
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s%s/%s", group->mount, group->path, name);
    FILE *file = n > 0 && (size_t)n < sizeof path ? open_below(root, path) : NULL;
    if (!file)
        return false;
    const bool has_line = fgets(text, 64, file) != NULL;
    fclose(file);
    return has_line && text[0] >= '0' && text[0] <= '9'; /* no quota is "max", or -1 */
}

/* The quota of one folder in processors, rounded up; UINT32_MAX: none. */
static uint32_t quota_of(const char *root, const cpu_group *group)
{
    char text[64];
    char period_text[64];
    char *rest;
    unsigned long long period;
    if (!read_line(root, group, group->is_v2 ? "cpu.max" : "cpu.cfs_quota_us", text))
        return UINT32_MAX;
    const unsigned long long quota = strtoull(text, &rest, 10);
    if (group->is_v2)
        period = strtoull(rest, NULL, 10);
    else
        period = read_line(root, group, "cpu.cfs_period_us", period_text)
                     ? strtoull(period_text, NULL, 10)
                     : 0;
    if (quota == 0 || period == 0)
        return UINT32_MAX;
    const unsigned long long n = (quota - 1) / period + 1;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* A group and all above it, up to where its tree is mounted. */
static uint32_t quota_upwards(const char *root, cpu_group *group)
{
    uint32_t least = UINT32_MAX;
    for (;;) {
        const uint32_t quota = quota_of(root, group);
        least = quota < least ? quota : least;
        char *slash = strrchr(group->path, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

/* A line "id:controllers:path" of /proc/self/cgroup; version 2 names no controllers. */
static bool take_group(char *line, cpu_group *group)
{
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return false;
    *path++ = '\0';
    controllers++;
    path[strcspn(path, "\n")] = '\0';
    group->is_v2 = *controllers == '\0';
    if ((!group->is_v2 && !list_has(controllers, "cpu")) || strlen(path) >= sizeof group->path)
        return false;
    strcpy(group->path, path);
    return true;
}

uint32_t kvf_cpus_quota(const char *root)
{
    uint32_t least = UINT32_MAX;
    cpu_group group;
    FILE *file = open_below(root, "/proc/self/cgroup");
    char *line = NULL;
    size_t line_bytes = 0;
    while (file && getline(&line, &line_bytes, file) > 0) {
        if (!take_group(line, &group) || !find_mount(root, &group))
            continue;
        const uint32_t quota = quota_upwards(root, &group);
        least = quota < least ? quota : least;
    }
    free(line);
    if (file)
        fclose(file);
    return least;
}

/* ---- The affinity mask -------------------------------------------------------------- */

static uint32_t cpus_of_mask(void)
{
#if defined(__linux__)
    /* The kernel's mask may be larger than the C library's plain set of 1024. */
    for (int n_cpus = 1024; n_cpus <= 1 << 20; n_cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpus);
        if (!set)
            break;
        const size_t bytes = CPU_ALLOC_SIZE((size_t)n_cpus);
        const bool known = sched_getaffinity(0, bytes, set) == 0;
        const int n = known ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0)
            return (uint32_t)n;
    }
#endif
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

uint32_t kvf_cpus_available(void)
{
    const uint32_t mask = cpus_of_mask();
    const uint32_t quota = kvf_cpus_quota("");
    return quota < mask ? quota : mask;
}

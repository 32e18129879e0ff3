#include "engine/limits.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * v1 writes "no limit" as the largest number of pages in bytes, a little under 2^63; no
 * machine has as much as this.
 */
static const uint64_t no_limit_bytes = UINT64_C(1) << 60;

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* ---- Files of numbers ---------------------------------------------------------------- */

/* FOLDER/NAME under the root; NULL where it cannot be opened. */
static FILE *open_file(const char *root, const char *folder, const char *name)
{
    char path[PATH_MAX];
    const int n = snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    return n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
}

/* Digits, and nothing behind them but `end`. */
static bool read_digits(const char *text, const char *end, uint64_t *value)
{
    uint64_t number = 0;
    const char *c = text;
    for (; *c >= '0' && *c <= '9'; c++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*c - '0'), &number))
            return false;
    if (c == text || strcmp(c, end) != 0)
        return false;
    *value = number;
    return true;
}

/* A file that holds one number, or "max". False where it is not there or something else. */
static bool read_number(const char *root, const char *folder, const char *name, uint64_t *value)
{
    char line[64] = "";
    FILE *file = open_file(root, folder, name);
    if (!file)
        return false;
    const bool read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    if (!read)
        return false;
    line[strcspn(line, "\n")] = '\0';
    *value = UINT64_MAX;
    if (strcmp(line, "max") == 0)
        return true;
    if (!read_digits(line, "", value))
        return false;
    if (*value >= no_limit_bytes)
        *value = UINT64_MAX;
    return true;
}

/* The number of "KEY NUMBER" or "KEY:   NUMBER kB", in bytes. */
static bool read_key(const char *root, const char *folder, const char *name, const char *key,
                     uint64_t *value)
{
    char line[256];
    bool found = false;
    const size_t key_bytes = strlen(key);
    FILE *file = open_file(root, folder, name);
    while (file && !found && fgets(line, sizeof line, file)) {
        const char *rest = line + key_bytes;
        if (strncmp(line, key, key_bytes) != 0 || (*rest != ' ' && *rest != ':'))
            continue;
        rest += strspn(rest, ": \t");
        uint64_t number;
        if (read_digits(rest, "\n", &number))
            found = true;
        else if (read_digits(rest, " kB\n", &number) && number < no_limit_bytes)
            number *= 1024, found = true;
        else
            break;
        *value = number;
    }
    if (file)
        fclose(file);
    return found;
}

/* ---- The machine and the process --------------------------------------------------------- */

static void lower(kvf_limit *limit, const char *name, uint64_t bytes, uint64_t left_bytes)
{
    left_bytes = min_u64(left_bytes, bytes);
    if (bytes == UINT64_MAX || left_bytes >= limit->left_bytes)
        return;
    snprintf(limit->name, sizeof limit->name, "%s", name);
    limit->bytes = bytes;
    limit->left_bytes = left_bytes;
}

void kvf_limits_lower(kvf_limits *limits, kvf_limit_kind kind, const char *name, uint64_t bytes,
                      uint64_t left_bytes)
{
    lower(&limits->tightest[kind], name, bytes, left_bytes);
}

/*
 * Memory that others do not use, with what they can be swapped out for. Nothing is planned
 * that the machine could only hold by swapping this process itself.
 */
static void add_machine(const kvf_system *system, kvf_limits *limits, uint64_t *swap_bytes)
{
    uint64_t total = system->machine_bytes;
    uint64_t available = UINT64_MAX;
    *swap_bytes = 0;
    read_key(system->root, "/proc", "meminfo", "MemTotal", &total);
    read_key(system->root, "/proc", "meminfo", "MemAvailable", &available);
    read_key(system->root, "/proc", "meminfo", "SwapFree", swap_bytes);
    kvf_limits_lower(limits, KVF_LIMIT_MEMORY, "this machine", total, plus(available, *swap_bytes));
}

/* Overcommit off: every byte that is asked for needs memory or swap behind it. */
static void add_commitment(const kvf_system *system, kvf_limits *limits)
{
    uint64_t mode = 0;
    uint64_t limit;
    uint64_t committed;
    if (read_number(system->root, "/proc/sys/vm", "overcommit_memory", &mode) && mode == 2 &&
        read_key(system->root, "/proc", "meminfo", "CommitLimit", &limit) &&
        read_key(system->root, "/proc", "meminfo", "Committed_AS", &committed))
        kvf_limits_lower(limits, KVF_LIMIT_DATA, "the system (vm.overcommit_memory is 2)", limit,
                         minus(limit, committed));
}

static void add_process(const kvf_system *system, kvf_limits *limits)
{
    unsigned long long pages = 0;
    unsigned long long data_pages = 0;
    FILE *file = open_file(system->root, "/proc/self", "statm");
    if (file) {
        /* size resident shared text lib data dt */
        if (fscanf(file, "%20llu %*u %*u %*u %*u %20llu", &pages, &data_pages) != 2)
            pages = data_pages = 0;
        fclose(file);
    }
    const uint64_t data_bytes = data_pages * system->page_bytes;
    kvf_limits_lower(limits, KVF_LIMIT_DATA, "this process's data limit (ulimit -d)",
                     system->data_bytes, minus(system->data_bytes, data_bytes));
    kvf_limits_lower(limits, KVF_LIMIT_ADDRESSES, "this process's address limit (ulimit -v)",
                     system->address_bytes,
                     minus(system->address_bytes, pages * system->page_bytes));
    add_commitment(system, limits);
}

/* ---- cgroups --------------------------------------------------------------------------------- */

/* The names of one version's files. */
typedef struct version {
    const char *limit;
    const char *usage;
    const char *active_file; /* in memory.stat, of the group and all below it */
    const char *inactive_file;
} version;
static const version versions[2] = {
    {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"},
    {"memory.max", "memory.current", "active_file", "inactive_file"}};

/* One version's tree, and where in it the process is. */
typedef struct tree {
    bool found;
    bool v2;
    char mount[PATH_MAX];
    char folder[PATH_MAX]; /* the mount, or below it */
} tree;

/* What the group's processes hold that could not be dropped at once. */
static uint64_t held_bytes(const char *root, const char *folder, const version *names)
{
    uint64_t usage = 0;
    uint64_t active = 0;
    uint64_t inactive = 0;
    read_number(root, folder, names->usage, &usage);
    read_key(root, folder, "memory.stat", names->active_file, &active);
    read_key(root, folder, "memory.stat", names->inactive_file, &inactive);
    return minus(usage, plus(active, inactive));
}

static void lower_by_file(kvf_limit *limit, const char *folder, const char *file, uint64_t bytes,
                          uint64_t left_bytes)
{
    char name[KVF_LIMIT_NAME_BYTES];
    const int room = (int)(sizeof name - strlen(file) - sizeof " of the cgroup ");
    const size_t length = strlen(folder);
    /* The end of a long path tells more than its beginning. */
    snprintf(name, sizeof name, "%s of the cgroup %.*s", file, room,
             length > (size_t)room ? folder + length - room : folder);
    lower(limit, name, bytes, left_bytes);
}

/* The swap that a group leaves to its processes. */
static uint64_t group_swap_bytes(const char *root, const char *folder)
{
    uint64_t most;
    uint64_t used = 0;
    if (!read_number(root, folder, "memory.swap.max", &most) || most == UINT64_MAX)
        return UINT64_MAX;
    read_number(root, folder, "memory.swap.current", &used);
    return minus(most, used);
}

static void add_group(const char *root, const tree *t, const char *folder, uint64_t swap_bytes,
                      kvf_limits *limits)
{
    const version *names = &versions[t->v2];
    kvf_limit *tightest = &limits->tightest[KVF_LIMIT_MEMORY];
    const uint64_t held = held_bytes(root, folder, names);
    uint64_t bytes;
    uint64_t both_bytes;
    uint64_t both_held;
    if (read_number(root, folder, names->limit, &bytes))
        lower_by_file(tightest, folder, names->limit, bytes, plus(minus(bytes, held), swap_bytes));
    if (t->v2 && read_number(root, folder, "memory.high", &bytes))
        lower_by_file(&limits->slow, folder, "memory.high", bytes, minus(bytes, held));
    if (!t->v2 && read_number(root, folder, "memory.memsw.limit_in_bytes", &both_bytes)) {
        const version with_swap = {NULL, "memory.memsw.usage_in_bytes", names->active_file,
                                   names->inactive_file};
        both_held = held_bytes(root, folder, &with_swap);
        lower_by_file(tightest, folder, "memory.memsw.limit_in_bytes", both_bytes,
                      minus(both_bytes, both_held));
    }
}

/* To the folder above, until the mount was the last. v1 can leave a group's own groups uncounted.
 */
static bool go_up(const char *root, const tree *t, char *folder)
{
    uint64_t counted = 1;
    if (strlen(folder) <= strlen(t->mount))
        return false;
    *strrchr(folder, '/') = '\0';
    if (!t->v2)
        read_number(root, folder, "memory.use_hierarchy", &counted);
    return counted != 0;
}

static void add_tree(const char *root, const tree *t, uint64_t swap_bytes, kvf_limits *limits)
{
    char folder[PATH_MAX];
    if (!t->found)
        return;
    strcpy(folder, t->folder);
    do
        swap_bytes = min_u64(swap_bytes, t->v2 ? group_swap_bytes(root, folder) : UINT64_MAX);
    while (go_up(root, t, folder));
    strcpy(folder, t->folder);
    do
        add_group(root, t, folder, swap_bytes, limits);
    while (go_up(root, t, folder));
}

/* ---- Which cgroup --------------------------------------------------------------------------- */

/* Whether a list "a,b,c" has the name. */
static bool list_has(const char *list, size_t list_bytes, const char *name)
{
    const size_t name_bytes = strlen(name);
    const char *end = list + list_bytes;
    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        const size_t bytes = (size_t)((comma ? comma : end) - list);
        if (bytes == name_bytes && memcmp(list, name, bytes) == 0)
            return true;
        list += bytes + 1;
    }
    return false;
}

/* "ID:CONTROLLERS:PATH": the path of each version's memory group, "" where it has none. */
static void read_own_paths(const char *root, char paths[2][PATH_MAX])
{
    char *line = NULL;
    size_t line_bytes = 0;
    paths[0][0] = paths[1][0] = '\0';
    FILE *file = open_file(root, "/proc/self", "cgroup");
    while (file && getline(&line, &line_bytes, file) > 0) {
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        controllers++;
        const bool v2 = path == controllers && strncmp(line, "0:", 2) == 0;
        if (!v2 && !list_has(controllers, (size_t)(path - controllers), "memory"))
            continue;
        path++;
        path[strcspn(path, "\n")] = '\0';
        if (path[0] == '/' && strlen(path) < PATH_MAX)
            strcpy(paths[v2], path);
    }
    free(line);
    if (file)
        fclose(file);
}

/* Undoes mountinfo's escapes: a space in a path is "\040". */
static void unescape(char *text)
{
    char *out = text;
    for (const char *c = text; *c; out++) {
        if (c[0] == '\\' && strspn(c + 1, "01234567") >= 3) {
            *out = (char)((c[1] - '0') * 64 + (c[2] - '0') * 8 + (c[3] - '0'));
            c += 4;
        } else {
            *out = *c++;
        }
    }
    *out = '\0';
}

/*
 * The process's folder under a mount that shows the tree from mount_root down. A container
 * may see a mount that begins at its own group, beside a path that is the host's, or a path
 * that leads out of what it sees ("/.."): then all it can see of its group is the mount.
 */
static bool place(tree *t, const char *mount, const char *mount_root, const char *path)
{
    const size_t root_bytes = strcmp(mount_root, "/") == 0 ? 0 : strlen(mount_root);
    const bool below = strncmp(path, mount_root, root_bytes) == 0 &&
                       (path[root_bytes] == '/' || path[root_bytes] == '\0') &&
                       !strstr(path, "/..");
    const char *rest = below ? path + root_bytes : "";
    if (strcmp(rest, "/") == 0)
        rest = "";
    if (!*path || strlen(mount) + strlen(rest) >= PATH_MAX)
        return false;
    strcpy(t->mount, mount);
    strcpy(t->folder, mount);
    strcat(t->folder, rest);
    t->found = true;
    return below;
}

/* "36 35 98:0 ROOT MOUNT OPTIONS [TAGS..] - TYPE SOURCE SUPER_OPTIONS" */
static void take_mount(char *line, char paths[2][PATH_MAX], tree trees[2], bool placed[2])
{
    char *fields[5];
    char *rest = line;
    char *tail = strstr(line, " - ");
    for (int i = 0; i < 5; i++)
        fields[i] = strsep(&rest, " ");
    if (!tail || !fields[4] || !rest || rest > tail)
        return;
    tail += strlen(" - ");
    const char *type = strsep(&tail, " ");
    strsep(&tail, " "); /* the source */
    const bool v2 = strcmp(type, "cgroup2") == 0;
    if (!v2 &&
        (strcmp(type, "cgroup") != 0 || !tail || !list_has(tail, strcspn(tail, "\n"), "memory")))
        return;
    unescape(fields[3]);
    unescape(fields[4]);
    trees[v2].v2 = v2;
    if (!placed[v2] && fields[4][0] == '/')
        placed[v2] = place(&trees[v2], fields[4], fields[3], paths[v2]);
}

static void find_trees(const char *root, tree trees[2])
{
    char paths[2][PATH_MAX];
    bool placed[2] = {false, false};
    char *line = NULL;
    size_t line_bytes = 0;
    trees[0].found = trees[1].found = false;
    read_own_paths(root, paths);
    FILE *file = open_file(root, "/proc/self", "mountinfo");
    while (file && getline(&line, &line_bytes, file) > 0)
        take_mount(line, paths, trees, placed);
    free(line);
    if (file)
        fclose(file);
}

/* ---- All of them ------------------------------------------------------------------------------
 */

void kvf_limits_find(const kvf_system *system, kvf_limits *limits)
{
    static const kvf_limit none = {"", UINT64_MAX, UINT64_MAX};
    tree trees[2];
    uint64_t swap_bytes;
    for (int i = 0; i < KVF_LIMIT_KINDS; i++)
        limits->tightest[i] = none;
    limits->slow = none;
    add_machine(system, limits, &swap_bytes);
    add_process(system, limits);
    find_trees(system->root, trees);
    for (int i = 0; i < 2; i++)
        add_tree(system->root, &trees[i], swap_bytes, limits);
}

static uint64_t own_limit(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
               ? (uint64_t)limit.rlim_cur
               : UINT64_MAX;
}

void kvf_limits_read(kvf_limits *limits)
{
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page_bytes = sysconf(_SC_PAGESIZE);
    const bool known = pages > 0 && page_bytes > 0;
    const kvf_system system = {.root = "",
                               .machine_bytes =
                                   known ? (uint64_t)pages * (uint64_t)page_bytes : UINT64_MAX,
                               .data_bytes = own_limit(RLIMIT_DATA),
                               .address_bytes = own_limit(RLIMIT_AS),
                               .page_bytes = page_bytes > 0 ? (uint64_t)page_bytes : 4096};
    kvf_limits_find(&system, limits);
}

uint64_t kvf_limits_left(void)
{
    kvf_limits limits;
    uint64_t left_bytes = UINT64_MAX;
    kvf_limits_read(&limits);
    for (int i = 0; i < KVF_LIMIT_KINDS; i++)
        if (limits.tightest[i].left_bytes < left_bytes)
            left_bytes = limits.tightest[i].left_bytes;
    return left_bytes > 0 ? left_bytes : 1;
}

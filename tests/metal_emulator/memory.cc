/*
 * GPU memory: one file in memory, mapped twice at two stretches of address space, so that
 * the host's address of a buffer is not the GPU's. Every buffer has its own pages with
 * guard pages around, and no address serves twice: what reads past a buffer, or one that
 * was released, faults.
 */
#include "machine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

constexpr uint64_t view_bytes = 1ull << 38;
constexpr uint64_t unit_bytes = 65536; /* buffers begin at multiples; the rest is guard */

static struct {
    pthread_mutex_t lock;
    memory_views views;
    int file;
    uint64_t used;        /* end of the last buffer's guard */
    allocation **of_unit; /* by offset / unit_bytes */
    allocation *newest;
} state = {PTHREAD_MUTEX_INITIALIZER, {nullptr, nullptr, 0}, -1, unit_bytes, nullptr, nullptr};

static void *reserve(uint64_t bytes)
{
    void *start =
        mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? nullptr : start;
}

static bool open_views()
{
    const uint64_t units = view_bytes / unit_bytes;
    state.file = memfd_create("kvfold-emulated-gpu", MFD_CLOEXEC);
    if (state.file < 0)
        return false;
    state.views.gpu = static_cast<unsigned char *>(reserve(view_bytes));
    state.views.host = static_cast<unsigned char *>(reserve(view_bytes));
    void *table = mmap(nullptr, units * sizeof(allocation *), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!state.views.gpu || !state.views.host || table == MAP_FAILED)
        return false;
    state.of_unit = static_cast<allocation **>(table);
    state.views.bytes = view_bytes;
    return true;
}

bool memory_open()
{
    pthread_mutex_lock(&state.lock);
    const bool good = state.views.bytes > 0 || open_views();
    pthread_mutex_unlock(&state.lock);
    return good;
}

const memory_views &memory()
{
    return state.views;
}

static bool map_pages(unsigned char *at, uint64_t offset, uint64_t bytes)
{
    return mmap(at + offset, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, state.file,
                (off_t)offset) != MAP_FAILED;
}

static void unmap_pages(unsigned char *at, uint64_t offset, uint64_t bytes)
{
    mmap(at + offset, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint64_t page_bytes(const allocation *a)
{
    return round_up(a->bytes ? a->bytes : 1, (uint64_t)sysconf(_SC_PAGESIZE));
}

/* Pages of the emulated GPU's own. */
static bool make_pages(const allocation *a)
{
    const uint64_t mapped = page_bytes(a);
    if (ftruncate(state.file, (off_t)(a->offset + mapped)) == 0 &&
        map_pages(state.views.gpu, a->offset, mapped) &&
        map_pages(state.views.host, a->offset, mapped))
        return true;
    unmap_pages(state.views.gpu, a->offset, mapped);
    return false;
}

/* Whether all of it lies in one mapping, which is shared and not written to. */
static bool is_one_mapping(const void *pages, uint64_t bytes)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    const uint64_t first = reinterpret_cast<uintptr_t>(pages);
    char line[512];
    bool found = false;
    while (maps && !found && fgets(line, sizeof(line), maps)) {
        unsigned long start, end;
        char rights[8];
        found = sscanf(line, "%lx-%lx %7s", &start, &end, rights) == 3 && start <= first &&
                first + bytes <= end && strcmp(rights, "r--s") == 0;
    }
    if (maps)
        fclose(maps);
    return found;
}

/* A second mapping of the same pages. */
static bool show_pages(const allocation *a, const void *pages)
{
    return is_one_mapping(pages, page_bytes(a)) &&
           mremap(const_cast<void *>(pages), 0, page_bytes(a), MREMAP_MAYMOVE | MREMAP_FIXED,
                  state.views.gpu + a->offset) != MAP_FAILED;
}

/* pages: of the host; NULL: own ones. */
static allocation *allocate(uint64_t bytes, const void *pages)
{
    /* At least half a unit behind every buffer is guard. */
    const uint64_t units = round_up(bytes + unit_bytes / 2 + 1, unit_bytes) / unit_bytes;
    if (bytes > view_bytes || state.used + units * unit_bytes > view_bytes)
        return nullptr;
    allocation *a = static_cast<allocation *>(calloc(1, sizeof(allocation)));
    if (!a)
        return nullptr;
    a->offset = state.used;
    a->bytes = bytes;
    if (!(pages ? show_pages(a, pages) : make_pages(a))) {
        free(a);
        return nullptr;
    }
    a->live = true;
    a->before = state.newest;
    state.newest = a;
    for (uint64_t u = 0; u < units; u++)
        state.of_unit[a->offset / unit_bytes + u] = a;
    state.used += units * unit_bytes;
    return a;
}

allocation *memory_allocate(uint64_t bytes)
{
    pthread_mutex_lock(&state.lock);
    allocation *a = allocate(bytes, nullptr);
    pthread_mutex_unlock(&state.lock);
    return a;
}

allocation *memory_map(const void *pages, uint64_t bytes)
{
    pthread_mutex_lock(&state.lock);
    allocation *a = allocate(bytes, pages);
    pthread_mutex_unlock(&state.lock);
    return a;
}

/* Its record stays, to say what it was. */
void memory_release(allocation *a)
{
    pthread_mutex_lock(&state.lock);
    const uint64_t mapped = page_bytes(a);
    madvise(state.views.host + a->offset, mapped, MADV_REMOVE);
    unmap_pages(state.views.gpu, a->offset, mapped);
    unmap_pages(state.views.host, a->offset, mapped);
    a->live = false;
    checks_forget(a->offset, a->bytes);
    pthread_mutex_unlock(&state.lock);
}

allocation *memory_find(uintptr_t gpu_address)
{
    const uint64_t offset = gpu_address - reinterpret_cast<uintptr_t>(state.views.gpu);
    return offset < state.views.bytes ? state.of_unit[offset / unit_bytes] : nullptr;
}

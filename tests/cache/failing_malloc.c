#include "failing_malloc.h"

#ifdef KVF_TEST_WRAPPED_MALLOC

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static bool counting;
static uint64_t until_reached; /* allocations before the one that was asked for */
static void (*call)(void);     /* NULL: it fails */
static int64_t n_live;
static uint64_t n_calls;

void failing_malloc_begin_calling(uint64_t number, void (*meanwhile)(void))
{
    until_reached = number;
    call = meanwhile;
    counting = true;
}

void failing_malloc_begin(uint64_t number)
{
    failing_malloc_begin_calling(number, NULL);
}

bool failing_malloc_end(void)
{
    const bool reached = !counting;
    counting = false;
    return reached;
}

uint64_t failing_malloc_calls(void)
{
    return n_calls;
}

malloc_counts failing_malloc_count(kvf_device *device)
{
    kvf_device_trim(device);
    malloc_counts now = {.n_live = n_live};
    memcpy(now.device_bytes, device->live_bytes, sizeof now.device_bytes);
    return now;
}

void failing_malloc_expect(kvf_device *device, const malloc_counts *before)
{
    const malloc_counts now = failing_malloc_count(device);
    assert_int_equal(now.n_live, before->n_live);
    assert_memory_equal(now.device_bytes, before->device_bytes, sizeof now.device_bytes);
}

/* Before each allocation. */
static bool fails(void)
{
    n_calls++;
    if (!counting || until_reached-- > 0)
        return false;
    counting = false;
    if (!call)
        return true;
    call();
    return false;
}

/* Declared for the linker's names. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
void __wrap_free(void *memory);

void *__wrap_malloc(size_t bytes)
{
    void *memory = fails() ? NULL : __real_malloc(bytes);
    n_live += memory != NULL;
    return memory;
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    void *memory = fails() ? NULL : __real_calloc(n, bytes);
    n_live += memory != NULL;
    return memory;
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    void *moved = fails() ? NULL : __real_realloc(memory, bytes);
    n_live += moved != NULL && memory == NULL;
    return moved;
}

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    if (fails())
        return ENOMEM;
    const int result = __real_posix_memalign(memory, alignment, bytes);
    n_live += result == 0;
    return result;
}

void __wrap_free(void *memory)
{
    n_live -= memory != NULL;
    __real_free(memory);
}

#endif

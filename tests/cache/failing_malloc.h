/*
 * Allocations of a test and of the library that fail one by one, and a count of what is not
 * freed. The linker puts the functions of failing_malloc.c before malloc and the others in
 * the programs that tests/CMakeLists.txt names; their sources see KVF_TEST_WRAPPED_MALLOC.
 */
#ifndef KVF_TEST_FAILING_MALLOC_H
#define KVF_TEST_FAILING_MALLOC_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"

/* From now on allocations are counted, the first is number 0, and this one fails. */
void failing_malloc_begin(uint64_t number);
/* The same, but `meanwhile` is called before this one, which succeeds. */
void failing_malloc_begin_calling(uint64_t number, void (*meanwhile)(void));
/* All succeed again. Whether it came to that one. */
bool failing_malloc_end(void);
/* Allocations that were asked for since the program began. */
uint64_t failing_malloc_calls(void);
/* What is allocated: of this program and the library, and of that on the device, without empty
 * slabs, which this gives back. */
typedef struct malloc_counts {
    int64_t n_live;
    uint64_t device_bytes[KVF_MEMORY_CLASS_COUNT];
} malloc_counts;
malloc_counts failing_malloc_count(kvf_device *device);
/* Fails the running test where that is not as before. */
void failing_malloc_expect(kvf_device *device, const malloc_counts *before);

#endif

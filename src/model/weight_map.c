#include "model/weight_map.h"

#include <stdlib.h>

static int by_address(const void *a, const void *b)
{
    const uintptr_t x = (uintptr_t)((const kvf_host_part *)a)->memory;
    const uintptr_t y = (uintptr_t)((const kvf_host_part *)b)->memory;
    return (x > y) - (x < y);
}

/* How many parts lie before the address; they ascend. */
static size_t n_before(const kvf_host_part *parts, size_t n, uintptr_t address)
{
    size_t before = 0;
    while (before < n && (uintptr_t)parts[before].memory < address)
        before++;
    return before;
}

kvf_status kvf_weight_map(kvf_device *device, const kvf_tensor_set *files, kvf_host_part *parts,
                          size_t n, kvf_error *error)
{
    const kvf_tensor_file *file;
    kvf_status status = KVF_OK;
    qsort(parts, n, sizeof *parts, by_address);
    for (uint32_t i = 0; status == KVF_OK && (file = kvf_tensor_set_file(files, i)); i++) {
        const uintptr_t start = (uintptr_t)file->map.data;
        const size_t first = n_before(parts, n, start);
        const size_t end = n_before(parts, n, start + file->map.bytes);
        if (first == end)
            continue;
        status = kvf_file_share(file->path, &file->map, error);
        if (status == KVF_OK)
            status = device->backend->map(device, parts + first, end - first, error);
    }
    return status;
}

void kvf_weight_unmap(kvf_device *device, const kvf_tensor_set *files)
{
    const kvf_tensor_file *file;
    for (uint32_t i = 0; device->backend->unmap && (file = kvf_tensor_set_file(files, i)); i++)
        device->backend->unmap(device, file->map.data, file->map.bytes);
}

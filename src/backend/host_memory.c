/* The memory functions of backends whose memory the host addresses. */
#include "backend/backend.h"

#include <string.h>

#include "error.h"

void kvf_host_zero(kvf_device *device, void *to, size_t bytes)
{
    (void)device;
    memset(to, 0, bytes);
}

void kvf_host_write(kvf_device *device, void *to, const void *from_host, size_t bytes)
{
    (void)device;
    memcpy(to, from_host, bytes);
}

void kvf_host_read(kvf_device *device, void *to_host, const void *from, size_t bytes)
{
    (void)device;
    memcpy(to_host, from, bytes);
}

void kvf_host_copy(kvf_device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    memcpy(to, from, bytes);
}

kvf_status kvf_host_wait(kvf_device *device, kvf_error *error)
{
    (void)device;
    return kvf_ok(error);
}

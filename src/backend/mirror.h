/*
 * Operations on the host's memory by a device that cannot address it: arrays are copied to
 * memory of the device before the operation, and what it writes is copied back. Slow, and the
 * same result. What callers of the public stages have, and tests. What is the device's own already,
 * such as the rows of a session, is used where it lies.
 *
 *     kvf_mirror m;
 *     kvf_mirror_begin(&m, device);
 *     there.in = kvf_mirror_in(&m, args->in, bytes);
 *     there.out = kvf_mirror_out(&m, args->out, bytes);
 *     if (!m.failed)
 *         device->backend->norm(device, &there);
 *     return kvf_mirror_end(&m, error);
 */
#ifndef KVF_BACKEND_MIRROR_H
#define KVF_BACKEND_MIRROR_H

#include "backend/backend.h"

typedef struct kvf_mirror_part {
    uint8_t *host;
    uint8_t *there;
    size_t bytes;
    bool written;
} kvf_mirror_part;

typedef struct kvf_mirror {
    kvf_device *device;
    kvf_mirror_part *parts;
    uint32_t n_parts;
    uint32_t capacity;
    bool failed; /* there was no memory */
} kvf_mirror;

void kvf_mirror_begin(kvf_mirror *mirror, kvf_device *device);

/*
 * The device's copy of host bytes; NULL for NULL or no bytes. What lies inside an array that
 * was asked for before is the same memory there: so outputs that may be inputs come first.
 */
void *kvf_mirror_in(kvf_mirror *mirror, const void *host, size_t bytes);
/* The same, copied back by end: bytes that nothing writes are as they were. */
void *kvf_mirror_out(kvf_mirror *mirror, void *host, size_t bytes);
/* Memory of the device for the operation alone, undefined. */
void *kvf_mirror_scratch(kvf_mirror *mirror, size_t bytes);
/* A view whose pages, and their table, are the host's. */
kvf_rows kvf_mirror_rows(kvf_mirror *mirror, const kvf_rows *view, bool written);

/* Waits, copies back what was written, and releases the copies. */
kvf_status kvf_mirror_end(kvf_mirror *mirror, kvf_error *error);

/* The stages that are public, `found` being staging memory. */
kvf_status kvf_mirror_check(kvf_device *device, const kvf_check_args *args, kvf_findings found,
                            kvf_error *error);
kvf_status kvf_mirror_pack(kvf_device *device, const kvf_pack_args *args, kvf_findings found,
                           kvf_error *error);
kvf_status kvf_mirror_unpack(kvf_device *device, const kvf_unpack_args *args, kvf_error *error);
kvf_status kvf_mirror_select(kvf_device *device, const kvf_select_args *args, kvf_error *error);
kvf_status kvf_mirror_attend(kvf_device *device, const kvf_attend_args *args, kvf_error *error);

/* Arguments with copies of the arrays, for an operation that the caller asks for. */
kvf_select_args kvf_mirror_select_args(kvf_mirror *mirror, const kvf_select_args *args);
kvf_attend_args kvf_mirror_attend_args(kvf_mirror *mirror, const kvf_attend_args *args);
/* The arrays of select_args that are read: of score too. */
kvf_select_args kvf_mirror_select_inputs(kvf_mirror *mirror, const kvf_select_args *args);

#endif

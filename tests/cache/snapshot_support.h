/*
 * What the tests of snapshots share: a small model, sessions whose content follows from
 * the number of their tokens, and digests that two sessions have in common only if they
 * hold the same.
 */
#ifndef KVF_TEST_SNAPSHOT_SUPPORT_H
#define KVF_TEST_SNAPSHOT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "snapshot/snapshot.h"
#include "checksum.h"

#define SNAP_CHUNK 96

/* One layer of each kind, all ratios small, so that files are too. */
extern kvf_geometry snap_geometry;
/*
 * A device of one thread, the CPU or what KVF_TEST_BACKEND names; opened by snap_setup, which also
 * makes an empty folder.
 */
extern kvf_device *snap_device;
int snap_setup(void **state);
int snap_teardown(void **state);

/* "FOLDER/NAME" in the folder of this test; 16 places that are used in turn. */
const char *snap_path(const char *name);
uint64_t snap_file_bytes(const char *path);
/* Reads or replaces a whole file. */
uint8_t *snap_read_file(const char *path, size_t *bytes);
void snap_write_file(const char *path, const void *data, size_t bytes);
/* splitmix64 */
uint64_t snap_random(uint64_t *state);

kvf_session *snap_open(kvf_device *device, kvf_profile_id profile, bool grid_off);
/* Another text: what follows from a place follows from this too. */
extern uint64_t snap_text;
/* Other values of the same token ids, as another way through the model would give. */
extern uint64_t snap_values;
/*
 * Appends n (<= SNAP_CHUNK) tokens whose ids and values follow from their place alone.
 * *output is a digest of what attend and select gave and of the logits that it wrote.
 */
kvf_status snap_step(kvf_session *session, uint32_t n, uint64_t *output, kvf_error *error);
/* Steps that must succeed, in chunks, up to n_tokens; the last output. */
uint64_t snap_grow(kvf_session *session, uint64_t n_tokens);

/* Of all that a session holds; `packed` takes bytes of rows, otherwise their values. */
uint64_t snap_digest(kvf_session *session, bool packed);

/* Fail the running test where the call does. */
kvf_save_report snap_save(kvf_session *session, const char *path);
kvf_session *snap_load(kvf_device *device, const char *path, const kvf_load_options *options);
/* The file is whole and holds what the session does. */
void snap_expect_same(const char *path, kvf_session *session);

/* The number of the digest that the file has (packed); fails where it is none of them. */
int snap_find_state(const char *path, const uint64_t *digests, int n);

/* Both headers of a file say this afterwards, with checksums that are right. */
void snap_patch_headers(const char *path, uint32_t version, uint32_t profile, uint32_t flags);

/* snapshot_kill.c: kills a process that saves n_kills times; main's arguments come first. */
int snap_kill_main(int argc, char **argv, unsigned n_kills);
/* snapshot_corruption.c: n_corruptions of each sort of file, from a seed. */
void snap_corrupt(unsigned n_corruptions, uint64_t seed);
/* Files that somebody made, with checksums that are right. */
void snap_forge(unsigned n_forgeries, uint64_t seed);
/* The parts of the index that a header of a file speaks of. */
kvf_part *snap_parts(uint8_t *data, const kvf_snapshot_header *header);
/*
 * Makes the checksums of a changed file right again: of the parts, the index, the headers. They
 * are where `header`, which is as it was before, has them.
 */
void snap_seal(uint8_t *data, size_t bytes, const kvf_snapshot_header *header);

#endif

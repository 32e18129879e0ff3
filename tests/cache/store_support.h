/* What the tests of stores share, besides what those of snapshots do. */
#ifndef KVF_TEST_STORE_SUPPORT_H
#define KVF_TEST_STORE_SUPPORT_H

#include "snapshot/store.h"
#include "snapshot_support.h"

#define STORE_MODEL 0x1234u
#define STORE_LARGE ((uint64_t)1 << 40)

/* By which all texts begin alike; 0 when a test begins. */
extern uint64_t store_shared_tokens;

/* Each test begins without the store's folder, and ends so. */
int store_start(void **state);
int store_finish(void **state);
#define STORE_TEST(test) cmocka_unit_test_setup_teardown(test, store_start, store_finish)

/* Both as snap_path. */
const char *store_folder(void);
const char *store_path(const char *name);
bool store_has(const char *name);
/* Files of states and of what becomes one: their number, and the sum of their bytes. */
unsigned store_count_files(uint64_t *bytes);
/* Changes one bit of the byte there. */
void store_damage(const char *name, uint64_t offset);

kvf_store *store_open(uint64_t max_bytes);
/* A session of the model with tokens of a text. */
kvf_session *store_session(kvf_profile_id profile, uint64_t text, uint64_t n_tokens);
/* Puts such a session; *name (may be NULL) is its file's. */
kvf_store_put_report store_put(kvf_store *store, kvf_profile_id profile, uint64_t text,
                               uint64_t n_tokens, char name[KVF_STORE_NAME_BYTES]);
/* Looks for a text of n_tokens (400 at most) in fold, checking all of each file. */
kvf_status store_try_find(kvf_store *store, uint64_t text, uint64_t n_tokens, kvf_session **session,
                          kvf_store_found *found, kvf_error *error);
/* The same, which must succeed; NULL where nothing fits. */
kvf_session *store_find(kvf_store *store, uint64_t text, uint64_t n_tokens, kvf_store_found *found);
/* The length that is found. */
uint64_t store_found_tokens(kvf_store *store, uint64_t text, uint64_t n_tokens);

#endif

#include "store_support.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_TOKENS 400

uint64_t store_shared_tokens;

/* ---- Files ------------------------------------------------------------------------- */

const char *store_folder(void)
{
    return snap_path("store");
}

const char *store_path(const char *name)
{
    char inside[80];
    snprintf(inside, sizeof inside, "store/%.70s", name);
    return snap_path(inside);
}

bool store_has(const char *name)
{
    return access(store_path(name), F_OK) == 0;
}

unsigned store_count_files(uint64_t *bytes)
{
    unsigned n = 0;
    DIR *listing = opendir(store_folder());
    *bytes = 0;
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        struct stat info;
        if (!strstr(entry->d_name, KVF_STORE_SUFFIX) || stat(store_path(entry->d_name), &info) != 0)
            continue;
        n++;
        *bytes += (uint64_t)info.st_size;
    }
    closedir(listing);
    return n;
}

void store_damage(const char *name, uint64_t offset)
{
    size_t bytes;
    uint8_t *data = snap_read_file(store_path(name), &bytes);
    assert_true(offset < bytes);
    data[offset] ^= 1;
    snap_write_file(store_path(name), data, bytes);
    free(data);
}

int store_start(void **state)
{
    (void)state;
    snap_text = 0;
    store_shared_tokens = 0;
    return 0;
}

int store_finish(void **state)
{
    (void)state;
    DIR *listing = opendir(store_folder());
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (entry->d_name[0] != '.')
            unlink(store_path(entry->d_name));
    if (listing)
        closedir(listing);
    return listing ? rmdir(store_folder()) : 0;
}

/* ---- Sessions ---------------------------------------------------------------------- */

kvf_store *store_open(uint64_t max_bytes)
{
    kvf_store *store;
    kvf_error error;
    if (kvf_store_open(store_folder(), max_bytes, NULL, &store, &error) != KVF_OK)
        fail_msg("%s", error.message);
    return store;
}

kvf_session *store_session(kvf_profile_id profile, uint64_t text, uint64_t n_tokens)
{
    kvf_session *session = snap_open(snap_device, profile, false);
    kvf_session_set_model_fingerprint(session, STORE_MODEL);
    snap_text = 0;
    snap_grow(session, store_shared_tokens < n_tokens ? store_shared_tokens : n_tokens);
    snap_text = text;
    snap_grow(session, n_tokens);
    return session;
}

kvf_store_put_report store_put(kvf_store *store, kvf_profile_id profile, uint64_t text,
                               uint64_t n_tokens, char name[KVF_STORE_NAME_BYTES])
{
    kvf_store_put_report report;
    kvf_error error;
    kvf_session *session = store_session(profile, text, n_tokens);
    if (kvf_store_put(store, session, &report, &error) != KVF_OK)
        fail_msg("%s", error.message);
    if (name)
        kvf_store_name(session, name);
    kvf_session_close(session);
    return report;
}

kvf_status store_try_find(kvf_store *store, uint64_t text, uint64_t n_tokens, kvf_session **session,
                          kvf_store_found *found, kvf_error *error)
{
    int32_t tokens[MOST_TOKENS];
    const kvf_session_options options = {.profile = KVF_PROFILE_FOLD, .chunk_tokens = SNAP_CHUNK};
    const kvf_load_options load = {
        .session = &options, .model_fingerprint = STORE_MODEL, .verify = true};
    for (uint64_t i = 0; i < n_tokens; i++) {
        uint64_t seed = i + ((i < store_shared_tokens ? 0 : text) << 32);
        tokens[i] = (int32_t)(snap_random(&seed) % snap_geometry.vocab);
    }
    return kvf_store_find(store, snap_device, tokens, n_tokens, &load, session, found, error);
}

kvf_session *store_find(kvf_store *store, uint64_t text, uint64_t n_tokens, kvf_store_found *found)
{
    kvf_session *session;
    kvf_error error;
    if (store_try_find(store, text, n_tokens, &session, found, &error) != KVF_OK)
        fail_msg("%s", error.message);
    assert_int_equal(found->n_tokens, session ? kvf_session_n_tokens(session) : 0);
    return session;
}

uint64_t store_found_tokens(kvf_store *store, uint64_t text, uint64_t n_tokens)
{
    kvf_store_found found;
    kvf_session_close(store_find(store, text, n_tokens, &found));
    return found.n_tokens;
}

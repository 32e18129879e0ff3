/*
 * Sessions of small_batch.h on a device of their own, in files, and as they are on the CPU where
 * nothing goes wrong: what is done to a device that fails is compared with that.
 *
 *   a  of file "a", and UNSAVED more tokens; its file has a checkpoint
 *   b  a fork of a
 *   c  of file "c": with C_MORE more tokens it holds a checkpoint
 *   d  of file "d": at a place where a checkpoint can be asked for, and none is
 */
#ifndef KVF_TEST_FAR_SCENE_H
#define KVF_TEST_FAR_SCENE_H

#define SMALL_CHUNK 64 /* devices are opened again and again */
#include "cache/small_batch.h"

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

#include "cache/compare.h"
#include "checksum.h"
#include "far/far.h"

#define MODEL 0x1234u
#define CHECKPOINT 128u /* where the file "a" has one */
#define A_SAVED 188u
#define UNSAVED 3u
#define C_SAVED 126u
#define D_SAVED 128u
/* Tokens that a batch, or a chunk of one session, adds: over the end of a page, one, to 128. */
#define A_MORE 5u
#define B_MORE 1u
#define C_MORE 2u

/* Which text its tokens are of, where it does not go on as a does. */
typedef enum scene_name { SCENE_A, SCENE_B, SCENE_C, SCENE_D, SCENE_SESSIONS } scene_name;

typedef struct scene {
    kvf_session *sessions[SCENE_SESSIONS];
    kvf_session *made; /* by what is done, or NULL */
    kvf_batch *batch;
} scene;

/* What the host has of a session for good. */
typedef struct scene_kept {
    uint64_t n_tokens;
    uint64_t digest;
} scene_kept;

static kvf_device *scene_cpu;
static small_inputs *scene_cpu_there;
static kvf_profile_id scene_profile;
static char scene_folder[64];
/* After the batch, of sessions that were never saved. */
static float scene_logits[SCENE_SESSIONS][SMALL_VOCAB];

static inline const char *scene_path(const char *name)
{
    static char paths[8][400];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof *paths, "%s/%s", scene_folder, name);
    return path;
}

static inline void scene_require(kvf_status status, const kvf_error *error)
{
    if (status != KVF_OK)
        fail_msg("%s", error->message);
}

/* ---- Devices ---------------------------------------------------------------------------- */

static inline void scene_use(kvf_device *device, small_inputs *there)
{
    small_device = device;
    small_there = there;
}

static inline void scene_use_cpu(void)
{
    scene_use(scene_cpu, scene_cpu_there);
}

static inline void scene_open_device(const char *backend)
{
    const kvf_device_options options = {
        .backend = backend, .isa = strcmp(backend, "far") == 0 ? "cpu" : NULL, .n_threads = 1};
    kvf_device *device;
    kvf_error error;
    scene_require(kvf_device_open(&options, &device, &error), &error);
    scene_use(device, device->backend->alloc(device, sizeof *small_in, KVF_PLACE_DEVICE));
    assert_non_null(small_there);
    SMALL_SEND(bias, sizeof small_in->bias / sizeof(float));
    SMALL_SEND(norm, 512);
}

/* Nothing is left on it. */
static inline void scene_close_device(void)
{
    small_device->backend->release(small_device, small_there, sizeof *small_there);
    for (int i = 0; i < KVF_MEMORY_CLASS_COUNT; i++)
        assert_int_equal(small_device->live_bytes[i], 0);
    if (small_device != scene_cpu)
        assert_int_equal(far_given(small_device), 1); /* the device's own */
    kvf_device_close(small_device);
}

/* ---- Files -------------------------------------------------------------------------------- */

static inline void scene_grow(kvf_session *session, uint64_t n_tokens, uint32_t text)
{
    for (uint64_t held; (held = kvf_session_n_tokens(session)) < n_tokens;) {
        const uint64_t left = n_tokens - held;
        small_feed(session, left < SMALL_CHUNK ? (uint32_t)left : SMALL_CHUNK, text);
    }
}

/* Tokens of the file, then of a alone, then those that the batch adds; the logits after them. */
static inline void scene_make_file(const char *name, uint32_t checkpoints, uint64_t n_saved)
{
    kvf_error error;
    kvf_session *session = small_open(scene_profile, checkpoints);
    kvf_session_set_model_fingerprint(session, MODEL);
    kvf_session_caller_state(session)[3] = 77;
    scene_grow(session, n_saved, 0);
    scene_require(kvf_session_save(session, scene_path(name), NULL, NULL, &error), &error);
    kvf_session_close(session);
}

static inline void scene_finish_on_cpu(kvf_session *session, scene_name which);

/* Sessions that nothing happens to. */
static inline void scene_undisturbed(scene_name which)
{
    kvf_session *session = small_open(scene_profile, 2);
    scene_finish_on_cpu(session, which);
    memcpy(scene_logits[which], kvf_session_logits(session), sizeof scene_logits[which]);
    kvf_session_close(session);
}

static inline uint64_t scene_end(scene_name which)
{
    static const uint64_t ends[SCENE_SESSIONS] = {
        A_SAVED + UNSAVED + A_MORE, A_SAVED + UNSAVED + B_MORE, C_SAVED + C_MORE, D_SAVED};
    return ends[which];
}

/* The rest of a session's tokens. */
static inline void scene_finish_on_cpu(kvf_session *session, scene_name which)
{
    const uint64_t parts = scene_end(which) - (which == SCENE_B ? B_MORE : 0);
    if (kvf_session_n_tokens(session) < parts)
        scene_grow(session, parts, 0);
    scene_grow(session, scene_end(which), which == SCENE_B);
}

/* Names and content of all files: the same number, the same files. */
static inline uint64_t scene_digest_folder(const char *folder)
{
    static uint8_t data[4 << 20];
    uint64_t digest = 0;
    DIR *listing = opendir(folder);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));) {
        char path[700];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = entry->d_type == DT_REG ? fopen(path, "rb") : NULL;
        const size_t bytes = file ? fread(data, 1, sizeof data, file) : 0;
        assert_true(bytes < sizeof data);
        if (file)
            fclose(file);
        digest += kvf_checksum(data, bytes) * 31 + kvf_checksum(path, strlen(path));
    }
    closedir(listing);
    return digest;
}

static inline void scene_empty_folder(const char *folder)
{
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing && (entry = readdir(listing));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            char path[700];
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            unlink(path);
        }
    if (listing)
        closedir(listing);
}

/* ---- The whole ------------------------------------------------------------------------------ */

/* Files and logits of a profile; the CPU's device is open. */
static inline void scene_begin(kvf_profile_id profile)
{
    scene_profile = profile;
    scene_use_cpu();
    scene_make_file("a", 2, A_SAVED);
    scene_make_file("c", 2, C_SAVED);
    scene_make_file("d", KVF_NO_CHECKPOINTS, D_SAVED);
    for (int i = 0; i < SCENE_SESSIONS; i++)
        scene_undisturbed((scene_name)i);
}

static inline kvf_session *scene_load(const char *name, uint32_t checkpoints)
{
    const kvf_session_options options = {.profile = scene_profile,
                                         .max_tokens = 8192,
                                         .chunk_tokens = SMALL_CHUNK,
                                         .checkpoint_count = checkpoints};
    const kvf_load_options load = {.session = &options};
    kvf_session *session;
    kvf_error error;
    scene_require(kvf_session_load(small_device, scene_path(name), &load, &session, &error),
                  &error);
    return session;
}

/* The sessions, on the device that is used. */
static inline void scene_open(scene *s)
{
    kvf_error error;
    s->sessions[SCENE_A] = scene_load("a", 2);
    scene_grow(s->sessions[SCENE_A], A_SAVED + UNSAVED, 0);
    scene_require(kvf_session_fork(s->sessions[SCENE_A], &s->sessions[SCENE_B], &error), &error);
    s->sessions[SCENE_C] = scene_load("c", 2);
    s->sessions[SCENE_D] = scene_load("d", KVF_NO_CHECKPOINTS);
    s->batch = small_open_batch(scene_profile, 3);
    s->made = NULL;
}

static inline void scene_close(scene *s)
{
    assert_int_equal(kvf_session_close(s->made), KVF_OK);
    for (int i = 0; i < SCENE_SESSIONS; i++)
        assert_int_equal(kvf_session_close(s->sessions[i]), KVF_OK);
    kvf_batch_close(s->batch);
}

static inline void scene_keep(scene *s, scene_kept *kept)
{
    for (int i = 0; i < SCENE_SESSIONS; i++) {
        kvf_session *session = s->sessions[i];
        kept[i].n_tokens = kvf_session_n_tokens(session);
        kept[i].digest =
            kvf_checksum(kvf_session_tokens(session), 4 * kept[i].n_tokens) +
            31 * kvf_checksum(kvf_session_logits(session), 4 * SMALL_VOCAB) +
            37 * kvf_checksum(kvf_session_caller_state(session), KVF_CALLER_STATE_BYTES);
    }
}

static inline int scene_setup(void **state)
{
    (void)state;
    snprintf(scene_folder, sizeof scene_folder, "/tmp/kvfold-scene-XXXXXX");
    small_piece = calloc(1, sizeof *small_piece);
    small_in = calloc(1, sizeof *small_in);
    if (!small_piece || !small_in || !mkdtemp(scene_folder))
        return 1;
    small_fill(small_in->bias, sizeof small_in->bias / sizeof(float), 1);
    small_fill(small_in->norm, 512, 2);
    scene_open_device("cpu");
    scene_cpu = small_device;
    scene_cpu_there = small_there;
    return 0;
}

static inline int scene_teardown(void **state)
{
    (void)state;
    scene_use_cpu();
    scene_close_device();
    free(small_in);
    free(small_piece);
    scene_empty_folder(scene_folder);
    return rmdir(scene_folder);
}

#endif

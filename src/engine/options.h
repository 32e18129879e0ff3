/* What a program decides of its engine, and what the engine tells it. docs/ENGINE.md. Internal. */
#ifndef KVF_ENGINE_OPTIONS_H
#define KVF_ENGINE_OPTIONS_H

#include "kvfold.h"

#include "file/tensor_set.h"

/* Plain data; all texts are the caller's and live as long as what was opened with them. */
typedef struct kvf_engine_options {
    /* Model and device. */
    const char *model; /* a checkpoint */
    const char *backend;
    const char *isa;    /* NULL: the best here */
    uint32_t n_threads; /* 0: as many as the process may use */

    /* Sessions. */
    kvf_profile_id profile;
    bool profile_given; /* else a saved session's own is taken */
    uint32_t chunk_tokens;
    uint32_t score_tile_tokens; /* 0: the profile's own */
    bool grid_off;
    bool grid_given;
    bool counts_checkpoints; /* a session of the library's defaults; the engine's has none */

    /* Their files. */
    const char *session; /* its name; NULL: it ends with the process */
    const char *store;   /* a folder; NULL: the default one, and no prefixes */
    uint64_t store_max_bytes;
    uint64_t save_every_seconds;
    bool verify_snapshot;
    bool no_lock;          /* go on where files cannot be locked */
    const char *data_home; /* $XDG_DATA_HOME, $HOME; NULL: not set */
    const char *home;

    /* Answers. */
    uint64_t max_tokens;
    float temperature;
    float top_p;
    float min_p;
    uint64_t seed;
    bool temperature_given; /* else a saved session's own are taken */
    bool top_p_given;
    bool min_p_given;
    bool seed_given;
} kvf_engine_options;

/* The chunk that a session of that context is opened with: never longer than the context. */
uint32_t kvf_engine_chunk_tokens(const kvf_engine_options *options, uint64_t context_tokens);

/* A session's options for a profile and a context. */
kvf_session_options kvf_engine_session_options(const kvf_engine_options *options,
                                               kvf_profile_id profile, uint64_t context_tokens);

/* Any of them may be NULL. They are called by the thread that called the engine. */
typedef struct kvf_engine_events {
    void *user;
    /* A sentence without a line break, of something that stops nothing. */
    void (*note)(void *user, bool is_warning, const char *text);
    /* Asked between two steps: true ends the prompt or the answer, which keeps what it has. */
    bool (*stopped)(void *user);
    /* Tokens of a prompt that are read; `done` is 0 before the first. */
    void (*progress)(void *user, uint64_t done, uint64_t n_tokens);
    /* A file means nothing without this process, until the same pointer comes again with false. */
    void (*temporary)(void *user, const char *path, bool is_there);
    /* *files is about to be opened (and NULL yet); false: it is about to be closed. */
    void (*watch)(void *user, kvf_tensor_set **files, bool begins);
} kvf_engine_events;

void kvf_engine_note(const kvf_engine_events *events, bool is_warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool kvf_engine_stopped(const kvf_engine_events *events);
void kvf_engine_temporary(const kvf_engine_events *events, const char *path, bool is_there);

#endif

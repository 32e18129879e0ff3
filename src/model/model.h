/*
 * The model: a loaded checkpoint on a device, and the forward pass of a session.
 * Written once against backend.h and the session functions of kvfold.h.
 */
#ifndef KVF_MODEL_MODEL_H
#define KVF_MODEL_MODEL_H

#include "model/config.h"
#include "file/file.h"
#include "model/weights.h"

/*
 * Called with named intermediate values of a forward pass (tests, debugging):
 * "hidden" [n][streams][hidden] after a layer, "attn_out" and "ffn_out" [n][hidden],
 * "row_input" .. ; values live until the callback returns.
 */
typedef void kvf_observe_fn(void *user, const char *name, uint32_t layer, const void *values,
                            uint64_t n, uint64_t width);

typedef struct kvf_model {
    kvf_device *device; /* not owned */
    kvf_model_config config;
    kvf_tensor_set *files;
    bool owns_files;      /* else they are the caller's */
    kvf_file config_file; /* mapped: it stays the one that was read, see file/file.h */
    kvf_weights weights;
    uint32_t chunk_tokens;       /* the most that a forward takes */
    struct kvf_forward *forward; /* activations, owned */
    /*
     * The files do not fit the memory that is left, so that they are read from the disk again
     * and again: the system is told what will be read. Set by who knows (the command).
     */
    bool from_disk;
    kvf_file_advice advice;  /* that was given last, of all files */
    kvf_observe_fn *observe; /* NULL: nothing is observed */
    void *observe_user;
    uint64_t fingerprint; /* version 2; 0: not computed yet */
} kvf_model;

/*
 * Loads the checkpoint at `path` (a folder of safetensors, one safetensors file, a GGUF; see
 * kvf_tensor_set_open) onto the device for chunks of up to chunk_tokens. Weights stay in
 * the mapped files where the backend can use them there. A file that is changed meanwhile is
 * KVF_FILE_IO.
 */
kvf_status kvf_model_load(kvf_device *device, const char *path, uint32_t chunk_tokens,
                          kvf_model **model, kvf_error *error);
/*
 * The same in two steps. The first takes files that are open, stay the caller's and outlive the
 * model, and loads the weights; path is for messages. The second, which may be repeated,
 * takes the memory for chunks of up to chunk_tokens: nothing is forwarded before it.
 */
kvf_status kvf_model_open(kvf_device *device, const char *path, kvf_tensor_set *files,
                          kvf_model **model, kvf_error *error);
kvf_status kvf_model_reserve(kvf_model *model, uint32_t chunk_tokens, kvf_error *error);
void kvf_model_free(kvf_model *model);

/* KVF_OK while all files of the model are what was loaded; KVF_FILE_IO says which is not, and why.
 */
kvf_status kvf_model_unchanged(const kvf_model *model, kvf_error *error);

/* Opens a session of this model's geometry. */
kvf_status kvf_model_open_session(kvf_model *model, const kvf_session_options *options,
                                  kvf_session **session, kvf_error *error);

/*
 * The model's fingerprint (model/fingerprint.h); the first call reads samples. It speaks
 * of what was loaded: KVF_FILE_IO where a file of the model is not any more what it was then,
 * and so for all functions below that need it.
 */
kvf_status kvf_model_fingerprint(kvf_model *model, uint64_t *fingerprint, kvf_error *error);

/* kvf_session_save with this model's fingerprint. */
kvf_status kvf_model_save_session(kvf_model *model, kvf_session *session, const char *path,
                                  const kvf_save_options *options, kvf_save_report *report,
                                  kvf_error *error);
/* kvf_save_begin with it. */
kvf_status kvf_model_save_begin(kvf_model *model, kvf_session *session, const char *path,
                                const kvf_save_options *options, kvf_save **save, kvf_error *error);
/*
 * kvf_session_load of a session of this model: one of another, or of none that is
 * known, is KVF_WRONG_MODEL. options may be NULL (profile and context as saved). One with a
 * fingerprint of version 1 is compared as well, for which all weights are read.
 */
kvf_status kvf_model_load_session(kvf_model *model, const char *path,
                                  const kvf_session_options *options, bool verify,
                                  kvf_session **session, kvf_error *error);

/*
 * Appends each item's tokens to its session, all of them in one pass over the weights: at most
 * chunk_tokens together. Logits of an item's last token are left in kvf_session_logits(), those of
 * all of them in its all_logits where that is not NULL.
 *   Items fail as kvf_batch_begin and the stages say, each for itself, and KVF_NONFINITE where the
 * head reads or gives a value that is not finite, which damaged weights make. All of them fail
 * where a file of the weights was lost (tensor_set.h; KVF_FILE_IO names it), and with
 * KVF_DEVICE_LOST. A session whose item failed is as it was, its logits too. KVF_OK as
 * long as any item was appended; else the status and message of the first.
 */
kvf_status kvf_model_forward(kvf_model *model, kvf_batch *batch, kvf_batch_item *items,
                             uint32_t n_items, kvf_error *error);

/*
 * Takes the session back to n_tokens tokens: truncate, and forward again from the
 * checkpoint in pieces as long as model and batch take. On the CPU rows, states and logits
 * are then to the bit those of a session that was never longer, whatever pieces, threads and
 * ISA either saw; on a GPU they are where the pieces are the same. Errors are those of
 * kvf_session_truncate, which leave the session unchanged; where the replay itself fails
 * (memory), the session holds the tokens up to there.
 */
kvf_status kvf_model_rewind(kvf_model *model, kvf_batch *batch, kvf_session *session,
                            uint64_t n_tokens, kvf_error *error);

/*
 * Activations of the dense layers for chunks of chunk_tokens, as plan buffers of
 * class KVF_MEMORY_ACTIVATION. Writes at most capacity of them (buffers may be
 * NULL), returns how many there are.
 */
uint32_t kvf_model_activations(const kvf_model_config *config, uint32_t chunk_tokens,
                               kvf_plan_buffer *buffers, uint32_t capacity);

/*
 * Bytes of weights that a device is asked for, for a config: vectors and tables, and all the
 * rest as f32 where its backend does not take weights as they are stored (backend.h).
 */
uint64_t kvf_model_weight_bytes(const kvf_model_config *config, bool takes_stored_weights);

/* Matrices that a token reads where they lie in the files, when it is decoded. */
typedef struct kvf_token_bytes {
    uint64_t layers;      /* attention, shared experts, routers, hyper-connections */
    uint64_t experts;     /* the routed ones that are used */
    uint64_t head;        /* with the token's row of the embedding */
    uint64_t all_experts; /* of which those are a part */
    uint32_t n_unusable;  /* weights that are missing or refused, and are in no number */
} kvf_token_bytes;
kvf_token_bytes kvf_model_token_bytes(const kvf_model_config *config, const kvf_tensor_set *files);

#endif

/* The device, the model, its text and its sessions. docs/ENGINE.md. Internal. */
#ifndef KVF_ENGINE_ENGINE_H
#define KVF_ENGINE_ENGINE_H

#include "engine/budget.h"
#include "engine/options.h"
#include "model/model.h"
#include "text/decoder.h"
#include "text/encoder.h"

typedef struct kvf_engine {
    const kvf_engine_options *options; /* the caller's, who may change them between two calls */
    kvf_engine_events events;
    kvf_device *device;
    kvf_model_config config;
    kvf_tensor_set *files; /* the model's */
    kvf_model *model;
    kvf_tokenizer *tokenizer; /* with the encoder, NULL until it is opened */
    kvf_encoder *encoder;
    bool warned;           /* of memory that will be slow */
    uint64_t needed_bytes; /* of memory: the most that was asked for so far */
} kvf_engine;

/* None of it is thread-safe: an engine is one thread's. */

/*
 * Opens the files and reads the config; notes which of its keys were passed over. Closed by
 * kvf_engine_close, after a failure too.
 */
kvf_status kvf_engine_open(const kvf_engine_options *options, const kvf_engine_events *events,
                           kvf_engine *engine, kvf_error *error);
void kvf_engine_close(kvf_engine *engine);

/* Notes the keys of config.json that nothing is known of. */
void kvf_engine_note_unknown_keys(const kvf_engine_events *events, const kvf_model_config *config);

/*
 * Opens the device that the options ask for now (closing an earlier one and its model) and,
 * where they stay in the files, the weights; nothing large is read or allocated yet.
 */
kvf_status kvf_engine_open_device(kvf_engine *engine, kvf_error *error);

/* The checkpoint's tokenizer; the status says why there is none (text/tokenizer.h). */
kvf_status kvf_engine_open_tokenizer(kvf_engine *engine, kvf_error *error);
/* Appends the ids of a text, in which no added token is found, behind BOS where bos is set and
 * the model has one. */
kvf_status kvf_engine_encode(kvf_engine *engine, const char *text, size_t bytes, bool bos,
                             kvf_ids *ids, kvf_error *error);

/*
 * KVF_OUT_OF_MEMORY where the limits of this process cannot hold the request (limits.h), before
 * weights are read. The message names the limit, and what would fit.
 */
kvf_status kvf_engine_check_memory(kvf_engine *engine, const kvf_request *request,
                                   kvf_error *error);

/*
 * Loads the model for sessions of up to that context. Notes where the weights do not fit the
 * memory that is left, and so come from the disk as they are needed.
 */
kvf_status kvf_engine_load(kvf_engine *engine, uint64_t context_tokens, kvf_error *error);

kvf_status kvf_engine_open_session(kvf_engine *engine, kvf_profile_id profile,
                                   uint64_t context_tokens, kvf_session **session,
                                   kvf_error *error);

/* A batch of one, for a session of that profile and context. */
kvf_status kvf_engine_open_batch(kvf_engine *engine, kvf_profile_id profile,
                                 uint64_t context_tokens, kvf_batch **batch, kvf_error *error);

/* What to do about a session that found no memory, added to the error; other errors stay. */
kvf_status kvf_engine_explain(kvf_profile_id profile, uint64_t context_tokens, kvf_error *error);

#endif

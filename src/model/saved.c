/* Sessions of a model in files, and the sampler that goes with them. */
#include <math.h>
#include <string.h>

#include "error.h"
#include "model/fingerprint.h"
#include "model/model.h"
#include "model/sample.h"

/* Weights are read for it: they have to be what was loaded until that is done. */
static kvf_status compute_fingerprint(kvf_model *model, kvf_error *error)
{
    uint64_t fingerprint;
    kvf_status status =
        kvf_fingerprint(&model->config, model->files, model->device, &fingerprint, error);
    if (status == KVF_OK)
        status = kvf_model_unchanged(model, error);
    if (status == KVF_OK)
        model->fingerprint = fingerprint;
    return status;
}

kvf_status kvf_model_fingerprint(kvf_model *model, uint64_t *fingerprint, kvf_error *error)
{
    kvf_status status = kvf_model_unchanged(model, error);
    if (status == KVF_OK && model->fingerprint == 0)
        status = compute_fingerprint(model, error);
    *fingerprint = status == KVF_OK ? model->fingerprint : 0;
    return status == KVF_OK ? kvf_ok(error) : status;
}

/* Marks a session as this model's, which is compared when it is restored. */
static kvf_status sign(kvf_model *model, kvf_session *session, kvf_error *error)
{
    uint64_t fingerprint;
    const kvf_status status = kvf_model_fingerprint(model, &fingerprint, error);
    if (status != KVF_OK)
        return status;
    kvf_session_set_model_fingerprint(session, fingerprint);
    kvf_fingerprint_mark(kvf_session_caller_state(session));
    return KVF_OK;
}

kvf_status kvf_model_save_session(kvf_model *model, kvf_session *session, const char *path,
                                  const kvf_save_options *options, kvf_save_report *report,
                                  kvf_error *error)
{
    const kvf_status status = sign(model, session, error);
    return status == KVF_OK ? kvf_session_save(session, path, options, report, error) : status;
}

kvf_status kvf_model_save_begin(kvf_model *model, kvf_session *session, const char *path,
                                const kvf_save_options *options, kvf_save **save, kvf_error *error)
{
    *save = NULL;
    const kvf_status status = sign(model, session, error);
    return status == KVF_OK ? kvf_save_begin(session, path, options, save, error) : status;
}

/* Of a session with a fingerprint of version 1, which all weights are read to compare with. */
static kvf_status compare_full(kvf_model *model, const kvf_session *session, const char *path,
                               kvf_error *error)
{
    const uint64_t saved = kvf_session_model_fingerprint(session);
    uint64_t full;
    kvf_status status = kvf_model_unchanged(model, error);
    if (status == KVF_OK)
        status = kvf_full_fingerprint(&model->config, model->files, model->device, &full, error);
    if (status == KVF_OK)
        status = kvf_model_unchanged(model, error);
    if (status != KVF_OK || full == saved)
        return status;
    return kvf_fail(error, KVF_WRONG_MODEL, "%s: was saved with model %016llx; this one is %016llx",
                    kvf_printable(path).text, (unsigned long long)saved, (unsigned long long)full);
}

kvf_status kvf_model_load_session(kvf_model *model, const char *path,
                                  const kvf_session_options *options, bool verify,
                                  kvf_session **session, kvf_error *error)
{
    kvf_load_options load = {
        .session = options, .geometry = &model->config.geometry, .verify = verify};
    kvf_snapshot_info info;
    *session = NULL;
    kvf_status status = kvf_model_unchanged(model, error);
    if (status == KVF_OK)
        status = kvf_snapshot_info_read(path, &info, error);
    const bool is_full = status == KVF_OK && info.model_fingerprint != 0 &&
                         kvf_fingerprint_version(info.caller_state) == 1;
    if (status == KVF_OK && !is_full)
        status = kvf_model_fingerprint(model, &load.model_fingerprint, error);
    if (status == KVF_OK)
        status = kvf_session_load(model->device, path, &load, session, error);
    if (status == KVF_OK && is_full)
        status = compare_full(model, *session, path, error);
    if (status != KVF_OK) {
        kvf_session_close(*session);
        *session = NULL;
        return status;
    }
    return kvf_ok(error);
}

/* ---- The sampler ------------------------------------------------------------------- */

typedef struct stored_sampler {
    float temperature;
    float top_p;
    float min_p;
    uint32_t is_there;
    uint64_t state;
} stored_sampler;
_Static_assert(sizeof(stored_sampler) == 24, "docs/FORMAT.md 10.7");

void kvf_sampler_store(const kvf_sampler *sampler, uint8_t bytes[KVF_CALLER_STATE_BYTES])
{
    const stored_sampler stored = {.temperature = sampler->temperature,
                                   .top_p = sampler->top_p,
                                   .min_p = sampler->min_p,
                                   .is_there = 1,
                                   .state = sampler->state};
    memcpy(bytes, &stored, sizeof stored);
}

bool kvf_sampler_restore(kvf_sampler *sampler, const uint8_t bytes[KVF_CALLER_STATE_BYTES])
{
    stored_sampler stored;
    memcpy(&stored, bytes, sizeof stored);
    /* A checksum says that the bytes are those that were saved, not that they make sense. */
    if (stored.is_there != 1 || !isfinite(stored.temperature) || stored.temperature < 0 ||
        !(stored.top_p >= 0 && stored.top_p <= 1) || !(stored.min_p >= 0 && stored.min_p <= 1))
        return false;
    *sampler = (kvf_sampler){.temperature = stored.temperature,
                             .top_p = stored.top_p,
                             .min_p = stored.min_p,
                             .state = stored.state};
    return true;
}

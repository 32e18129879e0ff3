#include "engine/generate.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"

static kvf_profile_id profile_of(const kvf_generator *generator)
{
    return generator->engine->options->profile;
}

kvf_status kvf_generator_open(kvf_engine *engine, kvf_saver *saver, uint64_t context_tokens,
                              const int32_t *tokens, uint64_t n_tokens, kvf_generator *generator,
                              kvf_error *error)
{
    const kvf_engine_options *options = engine->options;
    memset(generator, 0, sizeof *generator);
    generator->engine = engine;
    generator->saver = saver;
    generator->context_tokens = context_tokens;
    generator->sampler = (kvf_sampler){.temperature = options->temperature,
                                       .top_p = options->top_p,
                                       .min_p = options->min_p,
                                       .state = options->seed};
    generator->pending = -1;
    generator->sampling.changes.repeat_penalty = 1;
    const size_t vocab = engine->config.geometry.vocab;
    const size_t n_candidates = vocab > KVF_SAMPLED_MOST ? vocab : KVF_SAMPLED_MOST;
    generator->drawing.vocab = (uint32_t)vocab;
    generator->drawing.candidates = malloc(n_candidates * sizeof *generator->drawing.candidates);
    if (!generator->drawing.candidates)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for %zu candidates", n_candidates);
    kvf_status status =
        kvf_engine_open_batch(engine, options->profile, context_tokens, &generator->batch, error);
    if (status == KVF_OK)
        status =
            kvf_saver_restore(saver, engine, context_tokens, tokens, n_tokens, &generator->session,
                              &generator->sampler, &generator->pending, error);
    if (status != KVF_OK || generator->session)
        return status;
    return kvf_engine_open_session(engine, options->profile, context_tokens, &generator->session,
                                   error);
}

void kvf_generator_close(kvf_generator *generator)
{
    kvf_session_close(generator->session);
    kvf_batch_close(generator->batch);
    free(generator->drawing.candidates);
    generator->session = NULL;
    generator->batch = NULL;
    generator->drawing.candidates = NULL;
}

/* ---- Going back ---------------------------------------------------------------------- */

void kvf_generator_reset(kvf_generator *generator)
{
    kvf_session_truncate(generator->session, 0, NULL, NULL); /* always works */
    generator->sampling.is_sampled = false;
    generator->pending = -1;
    generator->pending_failed = false;
    kvf_saver_end_prompt(generator->saver);
}

void kvf_generator_keep(kvf_generator *generator, kvf_kept *kept)
{
    kvf_error error;
    *kept = (kvf_kept){.pending = generator->pending, .unfinished = generator->saver->unfinished};
    if (kvf_session_fork(generator->session, &kept->session, &error) != KVF_OK)
        kvf_engine_note(&generator->engine->events, true, "this cannot be taken back later: %s",
                        error.message);
}

void kvf_generator_take_back(kvf_generator *generator, kvf_kept *kept)
{
    /* What the file holds of it need not be written again. */
    kvf_session_share_save(kept->session, generator->session);
    kvf_session_close(generator->session);
    generator->session = kept->session;
    generator->sampling.is_sampled = false;
    generator->pending = kept->pending;
    generator->pending_failed = false;
    generator->saver->unfinished = kept->unfinished;
    kept->session = NULL;
}

void kvf_kept_free(kvf_kept *kept)
{
    kvf_session_close(kept->session);
    kept->session = NULL;
}

/* ---- Steps ---------------------------------------------------------------------------- */

/* A file of the model was shortened: every step and every save fails from then on. */
static bool weights_are_lost(const kvf_generator *generator)
{
    return kvf_tensor_set_lost(generator->engine->files) != NULL;
}

static kvf_status forward(kvf_generator *generator, const int32_t *tokens, uint32_t n_tokens,
                          kvf_error *error)
{
    kvf_batch_item item = {.session = generator->session,
                           .ids = tokens,
                           .n = n_tokens,
                           .sampling = &generator->sampling};
    generator->sampling.temperature = generator->sampler.temperature;
    const kvf_status status =
        kvf_model_forward(generator->engine->model, generator->batch, &item, 1, error);
    if (status == KVF_OK)
        return status;
    /* Nothing can be saved any more, which is said here and then no more. */
    if (weights_are_lost(generator) && (generator->saver->path || generator->saver->store)) {
        const kvf_error said = *error;
        generator->saver->failed = true;
        return kvf_fail(error, status, "%s; what came after the last save is not saved",
                        said.message);
    }
    return kvf_engine_explain(profile_of(generator), generator->context_tokens, error);
}

/* The token that was answered last comes first: it was shown, so it is part of the text. */
static kvf_status append_pending(kvf_generator *generator, kvf_error *error)
{
    if (generator->pending < 0)
        return kvf_ok(error);
    const kvf_status status = forward(generator, &generator->pending, 1, error);
    generator->pending_failed = status != KVF_OK;
    if (status == KVF_OK)
        generator->pending = -1;
    return status;
}

uint64_t kvf_generator_n_tokens(const kvf_generator *generator)
{
    return kvf_session_n_tokens(generator->session) + (generator->pending >= 0);
}

kvf_status kvf_generator_save(kvf_generator *generator, kvf_error *error)
{
    kvf_error not_saved;
    kvf_status status = kvf_ok(error);
    if (!generator->saver->path && !generator->saver->store)
        return status;
    if (!generator->pending_failed)
        status = append_pending(generator, error);
    if (weights_are_lost(generator) && status != KVF_OK)
        return status;
    const kvf_status saved = kvf_saver_save(generator->saver, generator->engine, generator->session,
                                            &generator->sampler, generator->pending, &not_saved);
    if (status == KVF_OK && saved != KVF_OK)
        *error = not_saved;
    else if (saved != KVF_OK) /* of two errors one is returned */
        kvf_engine_note(&generator->engine->events, true, "%s", not_saved.message);
    return status == KVF_OK ? saved : status;
}

kvf_status kvf_generator_save_rest(kvf_generator *generator, kvf_error *error)
{
    const kvf_saver *saver = generator->saver;
    if (!weights_are_lost(generator) && saver->path &&
        kvf_generator_n_tokens(generator) != saver->saved_tokens)
        return kvf_generator_save(generator, error);
    return kvf_ok(error);
}

kvf_status kvf_generator_append(kvf_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                                kvf_error *error)
{
    const uint32_t chunk =
        kvf_engine_chunk_tokens(generator->engine->options, generator->context_tokens);
    kvf_status status = append_pending(generator, error);
    for (uint64_t at = 0; at < n_tokens && status == KVF_OK; at += chunk) {
        const uint64_t left = n_tokens - at;
        status = forward(generator, tokens + at, left < chunk ? (uint32_t)left : chunk, error);
    }
    return status;
}

kvf_status kvf_generator_rewind(kvf_generator *generator, uint64_t n_tokens, kvf_error *error)
{
    const uint64_t held = kvf_session_n_tokens(generator->session);
    kvf_status status = kvf_ok(error);
    if (n_tokens > held)
        return status;
    generator->sampling.is_sampled = generator->sampling.is_sampled && n_tokens == held;
    if (n_tokens < held)
        status = kvf_model_rewind(generator->engine->model, generator->batch, generator->session,
                                  n_tokens, error);
    if (status != KVF_OK)
        return status;
    generator->pending = -1;
    generator->pending_failed = false;
    kvf_saver_end_prompt(generator->saver);
    return status;
}

kvf_status kvf_generator_ids(const kvf_generator *generator, kvf_ids *ids, kvf_error *error)
{
    const uint64_t held = kvf_session_n_tokens(generator->session);
    if (!kvf_ids_reserve(ids, held + 1))
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for %llu tokens",
                        (unsigned long long)held + 1);
    if (held > 0)
        memcpy(ids->ids + ids->n, kvf_session_tokens(generator->session), held * sizeof *ids->ids);
    ids->n += held;
    if (generator->pending >= 0)
        ids->ids[ids->n++] = generator->pending;
    return kvf_ok(error);
}

/* ---- A prompt --------------------------------------------------------------------------- */

/* One chunk of the prompt, whose first *done tokens are in the session. */
static kvf_status prefill_chunk(kvf_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                                uint32_t chunk, uint64_t *done, kvf_error *error)
{
    const uint64_t held = kvf_session_n_tokens(generator->session);
    const uint64_t left = kvf_saver_limit(generator->saver, held, held + n_tokens - *done);
    const uint32_t n = left < chunk ? (uint32_t)left : chunk;
    const kvf_status status = forward(generator, tokens + *done, n, error);
    if (status != KVF_OK)
        return status;
    *done += n;
    if (*done == n_tokens)
        kvf_saver_end_prompt(generator->saver);
    kvf_saver_tick(generator->saver, generator->engine, generator->session, &generator->sampler);
    return status;
}

static void tell_progress(const kvf_generator *generator, uint64_t done, uint64_t n_tokens)
{
    const kvf_engine_events *events = &generator->engine->events;
    if (events->progress)
        events->progress(events->user, done, n_tokens);
}

kvf_status kvf_generator_read(kvf_generator *generator, const int32_t *tokens, uint64_t n_tokens,
                              kvf_generation *generation, kvf_error *error)
{
    memset(generation, 0, sizeof *generation);
    const kvf_engine_events *events = &generator->engine->events;
    const uint32_t chunk =
        kvf_engine_chunk_tokens(generator->engine->options, generator->context_tokens);
    const double started = kvf_seconds();
    uint64_t *done = &generation->n_prompt_tokens;
    kvf_status status = append_pending(generator, error);
    tell_progress(generator, 0, n_tokens);
    if (status == KVF_OK && n_tokens > 0)
        kvf_saver_begin_prompt(generator->saver, generator->session);
    while (status == KVF_OK && *done < n_tokens && !kvf_engine_stopped(events)) {
        status = prefill_chunk(generator, tokens, n_tokens, chunk, done, error);
        tell_progress(generator, *done, n_tokens);
    }
    generation->prefill_seconds = kvf_seconds() - started;
    if (*done < n_tokens)
        generation->ending = KVF_ENDED_INTERRUPTED;
    /* A prompt is found again by itself, whatever its answer is. */
    if (status == KVF_OK && generator->saver->store)
        status = kvf_generator_save(generator, error);
    return status;
}

/* ---- An answer ---------------------------------------------------------------------------- */

static bool is_eos(const kvf_model_config *config, int32_t token)
{
    for (uint32_t i = 0; i < config->n_eos_tokens; i++) {
        if (config->eos_tokens[i] == token)
            return true;
    }
    return false;
}

static kvf_status keep_token(kvf_generation *generation, int32_t token, kvf_error *error)
{
    /* The array doubles whenever the count reaches a power of two. */
    if ((generation->n_tokens & (generation->n_tokens - 1)) == 0) {
        const size_t capacity = generation->n_tokens ? 2 * generation->n_tokens : 1;
        int32_t *larger = realloc(generation->tokens, capacity * sizeof *larger);
        if (!larger)
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "out of memory for %zu tokens", capacity);
        generation->tokens = larger;
    }
    generation->tokens[generation->n_tokens] = token;
    return KVF_OK;
}

/* True when the answer ends before another token is computed. */
static bool has_ended(const kvf_generator *generator, kvf_generation *generation)
{
    if (kvf_engine_stopped(&generator->engine->events))
        generation->ending = KVF_ENDED_INTERRUPTED;
    else if (generation->n_tokens == generator->engine->options->max_tokens)
        generation->ending = KVF_ENDED_MAX_TOKENS;
    else if (kvf_generator_n_tokens(generator) >= generator->context_tokens)
        generation->ending = KVF_ENDED_CONTEXT_FULL; /* one more would be shown and not held */
    else
        return false;
    return true;
}

/* The end of the answer that what became of its token means; false: it goes on. */
static bool ends_at(kvf_taken taken, kvf_ending *ending)
{
    static const kvf_ending endings[] = {[KVF_TAKEN_BY_NOBODY] = KVF_ENDED_INTERRUPTED,
                                         [KVF_TAKEN_AS_END] = KVF_ENDED_EOS,
                                         [KVF_TAKEN_AS_STOP] = KVF_ENDED_STOP};
    if (taken == KVF_TAKEN)
        return false;
    *ending = endings[taken];
    return true;
}

/* Draws a token and shows it. False where the answer ends without it, or with *status. */
static bool answer_token(kvf_generator *generator, const kvf_token_sink *sink,
                         kvf_generation *generation, kvf_status *status, kvf_error *error)
{
    const kvf_sampler before = generator->sampler;
    kvf_taken taken = KVF_TAKEN;
    uint32_t drawn;
    *status = kvf_draw_token(&generator->sampler, generator->session, &generator->sampling,
                             &generator->drawing, &drawn, error);
    if (*status != KVF_OK)
        return false;
    const int32_t token = (int32_t)drawn;
    if (is_eos(&generator->engine->config, token)) {
        generation->ending = KVF_ENDED_EOS;
        return false;
    }
    if (sink)
        taken = sink->take(sink->user, token);
    else
        *status = keep_token(generation, token, error);
    if (*status != KVF_OK)
        taken = KVF_TAKEN_BY_NOBODY;
    if (taken == KVF_TAKEN_BY_NOBODY)
        generator->sampler = before; /* it is drawn again when the text goes on */
    if (ends_at(taken, &generation->ending))
        return false;
    generation->n_tokens++;
    generator->pending = token;
    return true;
}

kvf_status kvf_generator_answer(kvf_generator *generator, const kvf_token_sink *sink,
                                kvf_generation *generation, kvf_error *error)
{
    const double started = kvf_seconds();
    kvf_status status = kvf_ok(error);
    while (status == KVF_OK && !has_ended(generator, generation) &&
           answer_token(generator, sink, generation, &status, error) &&
           !has_ended(generator, generation)) {
        status = append_pending(generator, error);
        if (status == KVF_OK && sink && sink->saves_between)
            kvf_saver_tick(generator->saver, generator->engine, generator->session,
                           &generator->sampler);
    }
    generation->decode_seconds = kvf_seconds() - started;
    return status;
}

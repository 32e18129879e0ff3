#include "server/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

/* ---- A job's memory ----------------------------------------------------------------------- */

static void free_choice(kvf_choice *choice)
{
    free(choice->uses);
    free(choice->use_of);
    choice->uses = NULL;
    choice->use_of = NULL;
}

static void free_job(kvf_job *job)
{
    for (uint32_t i = 0; i < job->options.n_choices; i++)
        free_choice(&job->choices[i]);
    free((void *)(uintptr_t)job->options.prompt);
    free((void *)(uintptr_t)job->options.draw.bias);
    free(job);
}

void kvf_job_release(kvf_job *job)
{
    if (job && atomic_fetch_sub(&job->n_references, 1) == 1)
        free_job(job);
}

void kvf_job_cancel(kvf_job *job)
{
    atomic_store(&job->is_cancelled, true);
}

static void *copy_of(const void *data, size_t n, size_t bytes)
{
    void *copy = malloc(n > 0 ? n * bytes : 1);
    if (copy && n > 0)
        memcpy(copy, data, n * bytes);
    return copy;
}

static bool has_penalty(float penalty, float off)
{
    return penalty < off || penalty > off;
}

/* Counts a token that was answered, or lists one of the prompt. */
static void use_token(kvf_choice *choice, int32_t id, uint32_t count)
{
    kvf_logit_changes *changes = &choice->sampling.changes;
    if (!choice->uses)
        return;
    if (choice->use_of[id] == 0) {
        choice->uses[changes->n_uses] = (kvf_token_use){(uint32_t)id, 0};
        choice->use_of[id] = ++changes->n_uses;
    }
    choice->uses[choice->use_of[id] - 1].count += count;
}

/* What penalties look at; false: no memory. */
static bool open_uses(kvf_job *job, kvf_choice *choice, uint32_t vocab)
{
    const kvf_draw *draw = &job->options.draw;
    const bool repeats = has_penalty(draw->repeat_penalty, 1);
    if (!repeats && !has_penalty(draw->presence_penalty, 0) &&
        !has_penalty(draw->frequency_penalty, 0))
        return true;
    choice->uses = malloc(vocab * sizeof *choice->uses);
    choice->use_of = calloc(vocab, sizeof *choice->use_of);
    if (!choice->uses || !choice->use_of)
        return false;
    choice->sampling.changes.uses = choice->uses;
    for (size_t at = 0; at < job->options.n_prompt && repeats; at++)
        use_token(choice, job->options.prompt[at], 0);
    return true;
}

static bool open_choice(kvf_job *job, uint32_t i, uint32_t vocab)
{
    const kvf_draw *draw = &job->options.draw;
    kvf_choice *choice = &job->choices[i];
    choice->pending = -1;
    choice->is_open = true;
    choice->sampler = (kvf_sampler){.temperature = draw->temperature,
                                    .top_p = draw->top_p,
                                    .min_p = draw->min_p,
                                    .top_k = draw->top_k,
                                    .state = draw->seed + i};
    choice->sampling.temperature = draw->temperature;
    choice->sampling.changes = (kvf_logit_changes){.bias = draw->bias,
                                                   .n_bias = draw->n_bias,
                                                   .repeat_penalty = draw->repeat_penalty,
                                                   .presence_penalty = draw->presence_penalty,
                                                   .frequency_penalty = draw->frequency_penalty};
    return open_uses(job, choice, vocab);
}

/* By id, then by value: so that a sum does not depend on how a request writes its biases. */
static int compare_biases(const void *a, const void *b)
{
    const kvf_bias *x = a;
    const kvf_bias *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

/* Biases of one id become their sum; how many are left. */
static uint32_t merge_biases(kvf_bias *bias, uint32_t n)
{
    uint32_t merged = 0;
    qsort(bias, n, sizeof *bias, compare_biases);
    for (uint32_t i = 0; i < n; i++)
        if (merged > 0 && bias[merged - 1].id == bias[i].id)
            bias[merged - 1].value += bias[i].value;
        else
            bias[merged++] = bias[i];
    return merged;
}

kvf_job *kvf_job_new(const kvf_job_options *options, uint32_t vocab)
{
    kvf_job *job = calloc(1, sizeof *job + options->n_choices * sizeof *job->choices);
    if (!job)
        return NULL;
    atomic_init(&job->n_references, 2);
    atomic_init(&job->is_cancelled, false);
    job->options = *options;
    job->n_open = options->n_choices;
    job->options.prompt = copy_of(options->prompt, options->n_prompt, sizeof *options->prompt);
    kvf_bias *bias = copy_of(options->draw.bias, options->draw.n_bias, sizeof *bias);
    job->options.draw.bias = bias;
    bool opened = job->options.prompt && bias;
    if (opened)
        job->options.draw.n_bias = merge_biases(bias, options->draw.n_bias);
    for (uint32_t i = 0; i < options->n_choices && opened; i++)
        opened = open_choice(job, i, vocab);
    if (opened)
        return job;
    free_job(job);
    return NULL;
}

/* ---- What a job may ask for --------------------------------------------------------------- */

static kvf_status check_draw(const kvf_draw *draw, uint32_t vocab, kvf_error *error)
{
    if (!(draw->temperature >= 0 && draw->temperature <= 100))
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "a temperature of %g; 0 to 100 are served",
                        (double)draw->temperature);
    if (!(draw->top_p >= 0 && draw->top_p <= 1) || !(draw->min_p >= 0 && draw->min_p <= 1))
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "top_p %g and min_p %g; both are 0 to 1",
                        (double)draw->top_p, (double)draw->min_p);
    if (!(draw->repeat_penalty > 0 && isfinite(draw->repeat_penalty)) ||
        !isfinite(draw->presence_penalty) || !isfinite(draw->frequency_penalty))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "penalties of %g (repeat, above 0), %g and %g; they are finite numbers",
                        (double)draw->repeat_penalty, (double)draw->presence_penalty,
                        (double)draw->frequency_penalty);
    if (draw->n_top > KVF_MAX_TOP_LOGPROBS || draw->n_top > vocab)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%u top logprobs; at most %d are given",
                        draw->n_top, KVF_MAX_TOP_LOGPROBS);
    for (uint32_t i = 0; i < draw->n_bias; i++)
        if (draw->bias[i].id < 0 || (uint32_t)draw->bias[i].id >= vocab ||
            isnan(draw->bias[i].value))
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "a bias of %g for token %d; the vocabulary is 0 to %u",
                            (double)draw->bias[i].value, draw->bias[i].id, vocab - 1);
    return KVF_OK;
}

kvf_status kvf_job_check(const kvf_job_options *options, uint32_t vocab, uint32_t parallel,
                         kvf_error *error)
{
    if (options->n_prompt == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "an empty prompt; one token at least");
    for (size_t i = 0; i < options->n_prompt; i++)
        if (options->prompt[i] < 0 || (uint32_t)options->prompt[i] >= vocab)
            return kvf_fail(error, KVF_INVALID_ARGUMENT,
                            "token %zu of the prompt has id %d; the vocabulary is 0 to %u", i,
                            options->prompt[i], vocab - 1);
    if (options->n_choices > KVF_MAX_CHOICES || options->n_choices > parallel)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%u choices; at most %u run at once, and %d are served", options->n_choices,
                        parallel, KVF_MAX_CHOICES);
    return check_draw(&options->draw, vocab, error);
}

/* ---- Tokens ------------------------------------------------------------------------------- */

/* Of a drawn token, and of the likeliest. */
static kvf_status draw_logprobs(const kvf_job *job, const kvf_choice *choice,
                                const kvf_drawing *drawing, kvf_drawn *drawn, kvf_logprob *top,
                                kvf_error *error)
{
    const kvf_draw *draw = &job->options.draw;
    kvf_session *session = choice->held->session;
    drawn->top = draw->n_top > 0 ? top : NULL;
    if (kvf_logprobs_few(&choice->sampling, (uint32_t)drawn->id, &drawn->logprob, top, draw->n_top))
        return KVF_OK;
    const kvf_status status = kvf_session_wait_logits(session, error);
    if (status == KVF_OK)
        drawn->logprob = kvf_logprobs(kvf_session_logits(session), drawing->vocab,
                                      (uint32_t)drawn->id, top, draw->n_top);
    return status;
}

kvf_status kvf_choice_draw(kvf_job *job, kvf_choice *choice, const kvf_drawing *drawing,
                           kvf_drawn *drawn, kvf_logprob *top, kvf_error *error)
{
    const kvf_draw *draw = &job->options.draw;
    uint32_t id;
    const kvf_status status = kvf_draw_token(&choice->sampler, choice->held->session,
                                             &choice->sampling, drawing, &id, error);
    if (status != KVF_OK)
        return status;
    *drawn = (kvf_drawn){.id = (int32_t)id, .logprob = 0, .top = NULL};
    if (!draw->logprobs && draw->n_top == 0)
        return status;
    return draw_logprobs(job, choice, drawing, drawn, top, error);
}

void kvf_choice_take(kvf_job *job, kvf_choice *choice, int32_t id)
{
    (void)job;
    choice->pending = id;
    choice->n_answered++;
    use_token(choice, id, 1);
}

void kvf_choice_end(kvf_job *job, kvf_choice *choice, kvf_job_end end, double now_seconds,
                    const kvf_error *error)
{
    const double began = job->began_seconds > 0 ? job->began_seconds : now_seconds;
    const double answering = job->answering_seconds > 0 ? job->answering_seconds : now_seconds;
    const kvf_job_usage usage = {
        .n_prompt = job->options.n_prompt,
        .n_cached = job->n_cached,
        .n_answered = choice->n_answered,
        .queued_seconds = began - job->submitted_seconds,
        .prefill_seconds = answering - began,
        .decode_seconds = now_seconds - answering,
    };
    job->n_open--;
    choice->is_open = false;
    choice->pending = -1;
    free_choice(choice);
    job->options.end(job->options.user, (uint32_t)(choice - job->choices), end, &usage,
                     end == KVF_JOB_FAILED ? error : NULL);
}

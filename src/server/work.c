#include "server/work_internal.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "server/common.h"

/* Checkpoints of a prompt lie at multiples of this in every model that there is; where they do not,
 * none is taken and all is read again. */
enum { CHECKPOINT_TOKENS = 128 };

/* ---- Open and close ----------------------------------------------------------------------- */

/* A step has a piece, up to a chunk, and a token of each answer. */
static kvf_status open_batch(kvf_work *work, kvf_error *error)
{
    kvf_session_options options = work->session_options;
    options.chunk_tokens += work->options.parallel;
    options.batch_sessions = work->options.parallel + 1;
    const kvf_status status = kvf_model_reserve(work->engine->model, options.chunk_tokens, error);
    if (status != KVF_OK)
        return status;
    return kvf_batch_open(work->engine->device, &work->engine->config.geometry, &options,
                          &work->batch, error);
}

static kvf_status open_drawing(kvf_work *work, kvf_error *error)
{
    const uint32_t vocab = work->engine->config.geometry.vocab;
    const size_t n_items = (size_t)work->options.parallel + 1;
    const size_t n_candidates = vocab > KVF_SAMPLED_MOST ? vocab : KVF_SAMPLED_MOST;
    work->drawing.vocab = vocab;
    work->drawing.candidates = malloc(n_candidates * sizeof *work->drawing.candidates);
    work->drawing.logits = malloc(vocab * sizeof *work->drawing.logits);
    work->items = calloc(n_items, sizeof *work->items);
    work->item_of = calloc(n_items, sizeof(kvf_choice *));
    work->item_job = calloc(n_items, sizeof(kvf_job *));
    if (!work->drawing.candidates || !work->drawing.logits || !work->items || !work->item_of ||
        !work->item_job)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to draw from %u tokens", vocab);
    return KVF_OK;
}

kvf_status kvf_work_open(kvf_engine *engine, const kvf_scheduler_options *options,
                         void (*wake)(void *user), void *wake_user, kvf_work *work,
                         kvf_error *error)
{
    memset(work, 0, sizeof *work);
    work->engine = engine;
    work->options = *options;
    work->session_options =
        kvf_engine_session_options(engine->options, options->profile, options->context_tokens);
    const uint64_t n_spaced = options->context_tokens / options->spacing_tokens;
    work->session_options.checkpoint_spacing_tokens = options->spacing_tokens;
    work->session_options.checkpoint_count = n_spaced > 0 ? (uint32_t)n_spaced : 1;
    kvf_status status =
        kvf_needs_open(&engine->config.geometry, &work->session_options, &work->needs, error);
    if (status == KVF_OK)
        status = open_drawing(work, error);
    if (status == KVF_OK)
        status = open_batch(work, error);
    if (status == KVF_OK && options->memory_bytes == 0)
        work->options.memory_bytes = kvf_work_memory_left(engine, options->folder != NULL);
    if (status == KVF_OK && options->folder)
        status =
            kvf_shelf_open(engine, options->folder, options->folder_max_bytes, options->no_lock,
                           &work->session_options, wake, wake_user, &work->shelf, error);
    return status;
}

void kvf_work_close(kvf_work *work)
{
    kvf_batch_close(work->batch);
    kvf_prefixes_close(&work->prefixes);
    kvf_shelf_close(work->shelf);
    free(work->drawing.candidates);
    free(work->drawing.logits);
    free(work->items);
    free(work->item_of);
    free(work->item_job);
    memset(work, 0, sizeof *work);
}

/* ---- Ends --------------------------------------------------------------------------------- */

void kvf_job_end_all(kvf_job *job, kvf_job_end end, const kvf_error *error)
{
    const double now = kvf_seconds();
    for (uint32_t i = 0; i < job->options.n_choices; i++)
        kvf_choice_end(job, &job->choices[i], end, now, error);
    kvf_job_release(job);
}

/* One choice; what its session holds may be gone on from. */
static void end_choice(kvf_work *work, kvf_job *job, kvf_choice *choice, kvf_job_end end,
                       const kvf_error *error)
{
    const double now = kvf_seconds();
    kvf_held *held = choice->held;
    choice->held = NULL;
    if (held)
        kvf_prefixes_rest(&work->prefixes, held, now);
    work->report.n_failed += end == KVF_JOB_FAILED;
    work->report.n_cancelled += end == KVF_JOB_CANCELLED;
    kvf_choice_end(job, choice, end, now, error);
}

/* Forgets a job whose choices have all ended. */
static void forget(kvf_work *work, kvf_job *job)
{
    kvf_job **at = &work->running;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    work->n_running -= job->options.n_choices;
    work->n_ended++;
    kvf_job_release(job);
}

void kvf_work_end(kvf_work *work, kvf_job *job, kvf_job_end end, const kvf_error *error)
{
    for (uint32_t i = 0; i < job->options.n_choices; i++)
        if (job->choices[i].is_open)
            end_choice(work, job, &job->choices[i], end, error);
    forget(work, job);
}

void kvf_work_end_cancelled(kvf_work *work)
{
    for (kvf_job *job = work->running, *next; job; job = next) {
        next = job->next;
        if (atomic_load(&job->is_cancelled))
            kvf_work_end(work, job, KVF_JOB_CANCELLED, NULL);
    }
}

/* ---- Beginning ---------------------------------------------------------------------------- */

static kvf_status open_session(kvf_work *work, const kvf_resume *resume, kvf_held **held,
                               kvf_error *error)
{
    kvf_session *session;
    if (resume->held)
        return kvf_prefixes_resume(&work->prefixes, resume, kvf_seconds(), held, error);
    kvf_status status =
        kvf_model_open_session(work->engine->model, &work->session_options, &session, error);
    if (status != KVF_OK)
        return status;
    status = kvf_prefixes_add(&work->prefixes, session, held, error);
    if (status != KVF_OK)
        kvf_session_close(session);
    return status;
}

/* Where to take checkpoints: where the text leaves what is held, and at its turn; one is left. */
static void set_places(kvf_job *job, const kvf_resume *resume)
{
    const size_t last = job->options.n_prompt - 1; /* one token is read behind a checkpoint */
    const size_t turn = job->options.turn_at < last ? job->options.turn_at : last;
    job->places[0] = (resume->shared_tokens < last ? resume->shared_tokens : last) /
                     CHECKPOINT_TOKENS * CHECKPOINT_TOKENS;
    job->places[1] = turn / CHECKPOINT_TOKENS * CHECKPOINT_TOKENS;
}

/* ---- What another reads already ----------------------------------------------------------- */

/* So many tokens at the least have to be spared for it. */
enum { AWAITED_TOKENS = 2 * CHECKPOINT_TOKENS };

static bool is_reading(const kvf_job *job)
{
    return job->answering_seconds <= 0;
}

static bool is_awaited(const kvf_work *work, const kvf_job *job)
{
    for (const kvf_job *other = work->running; other; other = other->next)
        if (other->number == job->awaited_job)
            return is_reading(other) && other->n_read < job->awaited_tokens;
    return false;
}

/*
 * Where a prompt that is being read begins as this one does, beyond what is there of it yet, the
 * other takes a checkpoint where they part, and this one waits for it. Only ever for an older job,
 * so that none waits for itself.
 */
static void await_reader(kvf_work *work, kvf_job *job)
{
    kvf_job *best = NULL;
    uint64_t most = job->n_read + AWAITED_TOKENS;
    for (kvf_job *other = work->running; other; other = other->next) {
        if (other == job || !is_reading(other) || other->n_read < job->n_read)
            continue;
        const uint64_t shared = kvf_common_tokens(other->options.prompt, other->options.n_prompt,
                                                  job->options.prompt, job->options.n_prompt) /
                                CHECKPOINT_TOKENS * CHECKPOINT_TOKENS;
        if (shared >= most && other->n_read < shared) {
            best = other;
            most = shared;
        }
    }
    if (!best)
        return;
    for (uint32_t i = 0; i < KVF_JOB_PLACES; i++)
        if (best->places[i] <= best->n_read || best->places[i] == most) {
            best->places[i] = most;
            job->awaited_job = best->number;
            job->awaited_tokens = most;
            return;
        }
}

/* What was waited for is there, or will not come: goes on from the latest place that there is. */
static void resume_again(kvf_work *work, kvf_job *job)
{
    kvf_error error;
    kvf_held *held;
    job->awaited_job = 0;
    const kvf_resume resume =
        kvf_prefixes_find(&work->prefixes, job->options.prompt, job->options.n_prompt);
    if (!resume.held || resume.n_tokens < job->n_read + CHECKPOINT_TOKENS)
        return;
    kvf_work_expect_copies(work, resume.held);
    if (kvf_prefixes_resume(&work->prefixes, &resume, kvf_seconds(), &held, &error) != KVF_OK)
        return; /* it reads by itself */
    kvf_prefixes_drop(&work->prefixes, job->choices[0].held);
    job->choices[0].held = held;
    job->choices[0].has_begun = false;
    job->choices[0].sampling.is_sampled = false;
    work->report.cached_tokens += resume.n_tokens - job->n_read;
    job->n_cached += resume.n_tokens - job->n_read;
    job->n_read = resume.n_tokens;
    set_places(job, &resume);
}

static void tell_progress(const kvf_job *job)
{
    if (job->options.progress)
        job->options.progress(job->options.user, job->n_read, job->options.n_prompt);
}

static void start_answers(kvf_work *work, kvf_job *job);

/*
 * Memory for the job and for what it resumes from; what cannot be held besides is given up, and the
 * prompt read anew. KVF_NO_ROOM: neither way.
 */
static kvf_room make_room(kvf_work *work, const kvf_job *job, kvf_resume *resume, kvf_error *error)
{
    const kvf_room found = kvf_work_make_room(work, job, resume, error);
    if (found != KVF_NO_ROOM || !resume->held || resume->held->runs)
        return found;
    const kvf_resume without = {NULL, 0, resume->shared_tokens};
    const kvf_room again = kvf_work_make_room(work, job, &without, error);
    if (again == KVF_ROOM)
        *resume = without;
    return again;
}

static void note_loss(kvf_work *work, const kvf_error *error)
{
    if (work->lost.status == KVF_OK &&
        (error->status == KVF_DEVICE_LOST || kvf_tensor_set_lost(work->engine->files)))
        work->lost = *error;
}

kvf_begun kvf_work_begin(kvf_work *work, kvf_job *job)
{
    kvf_error error = {KVF_OK, ""};
    kvf_resume resume =
        kvf_prefixes_find(&work->prefixes, job->options.prompt, job->options.n_prompt);
    const kvf_restores restores = kvf_work_restore(work, job, &resume);
    if (restores != KVF_RESTORES_NOT)
        return restores == KVF_RESTORES ? KVF_IS_RESTORED : KVF_NO_MEMORY;
    const kvf_room room = make_room(work, job, &resume, &error);
    if (room == KVF_NO_ROOM_NOW)
        return KVF_NO_MEMORY;
    kvf_status status = room == KVF_ROOM ? KVF_OK : error.status;
    if (status == KVF_OK)
        status = open_session(work, &resume, &job->choices[0].held, &error);
    work->report.n_jobs++;
    job->began_seconds = kvf_seconds();
    job->number = ++work->n_begun;
    job->next = work->running;
    work->running = job;
    work->n_running += job->options.n_choices;
    if (status != KVF_OK) {
        note_loss(work, &error);
        kvf_work_end(work, job, KVF_JOB_FAILED, &error);
        return KVF_BEGUN;
    }
    job->n_cached = job->n_read = resume.n_tokens;
    set_places(job, &resume);
    work->report.prompt_tokens += job->options.n_prompt;
    work->report.cached_tokens += job->n_cached;
    tell_progress(job);
    if (job->n_read == job->options.n_prompt)
        start_answers(work, job);
    else
        await_reader(work, job);
    return KVF_BEGUN;
}

/* ---- Answers ------------------------------------------------------------------------------ */

static bool is_eos(const kvf_model_config *config, int32_t id)
{
    for (uint32_t i = 0; i < config->n_eos_tokens; i++)
        if (config->eos_tokens[i] == id)
            return true;
    return false;
}

/* The end that a token means which was not taken. */
static kvf_job_end end_of(kvf_taken taken)
{
    switch (taken) {
    case KVF_TAKEN_AS_END: return KVF_JOB_EOS;
    case KVF_TAKEN_AS_STOP: return KVF_JOB_STOP;
    case KVF_TAKEN:
    case KVF_TAKEN_BY_NOBODY: break;
    }
    return KVF_JOB_CANCELLED;
}

/* Draws a token and gives it to the job; false where the answer ends, as *end says. */
static bool answer(kvf_work *work, kvf_job *job, kvf_choice *choice, kvf_job_end *end,
                   kvf_error *error)
{
    kvf_logprob top[KVF_MAX_TOP_LOGPROBS];
    kvf_drawn drawn;
    *end = KVF_JOB_FAILED;
    if (kvf_choice_draw(job, choice, &work->drawing, &drawn, top, error) != KVF_OK)
        return false;
    if (is_eos(&work->engine->config, drawn.id)) {
        *end = KVF_JOB_EOS;
        return false;
    }
    const double now = kvf_seconds();
    if (choice->told_seconds > 0 && now - choice->told_seconds > work->report.longest_pause_seconds)
        work->report.longest_pause_seconds = now - choice->told_seconds;
    choice->told_seconds = now;
    const kvf_taken taken =
        job->options.take(job->options.user, (uint32_t)(choice - job->choices), &drawn);
    *end = end_of(taken);
    if (taken != KVF_TAKEN)
        return false;
    kvf_choice_take(job, choice, drawn.id);
    work->report.answered_tokens++;
    *end = KVF_JOB_MAX_TOKENS;
    if (choice->n_answered == job->max_tokens)
        return false;
    *end = KVF_JOB_CONTEXT_FULL; /* one more would be given and not held */
    return kvf_session_n_tokens(choice->held->session) + 1 < work->options.context_tokens;
}

/* True where that was the job's last choice: it is gone. */
static bool answer_or_end(kvf_work *work, kvf_job *job, kvf_choice *choice)
{
    kvf_job_end end;
    kvf_error error;
    if (answer(work, job, choice, &end, &error))
        return false;
    end_choice(work, job, choice, end, &error);
    if (job->n_open > 0)
        return false;
    forget(work, job);
    return true;
}

/* The prompt is there: each choice but the first becomes a fork, and all draw their first token. */
static void start_answers(kvf_work *work, kvf_job *job)
{
    const uint32_t n = job->options.n_choices;
    kvf_session *prompt = job->choices[0].held->session;
    job->answering_seconds = kvf_seconds();
    if (n > 1)
        job->choices[0].has_begun = false;
    for (uint32_t i = 1; i < n; i++) {
        kvf_error error;
        kvf_session *fork;
        kvf_status status = kvf_session_fork(prompt, &fork, &error);
        if (status == KVF_OK) {
            status = kvf_prefixes_add(&work->prefixes, fork, &job->choices[i].held, &error);
            if (status != KVF_OK)
                kvf_session_close(fork);
        }
        if (status != KVF_OK)
            end_choice(work, job, &job->choices[i], KVF_JOB_FAILED, &error);
    }
    for (uint32_t i = 0; i < n; i++)
        if (job->choices[i].is_open && answer_or_end(work, job, &job->choices[i]))
            return;
}

/* ---- Steps -------------------------------------------------------------------------------- */

/* Tokens up to the next place where a checkpoint is to be taken, which a piece does not pass. */
static uint64_t to_next_place(const kvf_work *work, const kvf_job *job, uint64_t n_held)
{
    const uint64_t spacing = work->options.spacing_tokens;
    uint64_t next = (n_held / spacing + 1) * spacing;
    for (uint32_t i = 0; i < KVF_JOB_PLACES; i++)
        if (job->places[i] > n_held && job->places[i] < next)
            next = job->places[i];
    return next - n_held;
}

/* At the places that are wanted; commit takes those of the spacing. Without memory there is none.
 */
static void take_checkpoint(const kvf_job *job, kvf_session *session)
{
    const uint64_t n = kvf_session_n_tokens(session);
    bool wanted = false;
    for (uint32_t i = 0; i < KVF_JOB_PLACES; i++)
        wanted = wanted || job->places[i] == n;
    if (wanted)
        kvf_session_checkpoint(session, NULL);
}

static void add_item(kvf_work *work, uint32_t at, kvf_job *job, kvf_choice *choice,
                     const int32_t *ids, uint32_t n)
{
    work->items[at] = (kvf_batch_item){.session = choice->held->session,
                                       .ids = ids,
                                       .n = n,
                                       .sampling = &choice->sampling,
                                       .status = KVF_OK};
    work->item_of[at] = choice;
    work->item_job[at] = job;
}

static uint32_t add_answers(kvf_work *work)
{
    uint32_t n = 0;
    for (kvf_job *job = work->running; job; job = job->next)
        for (uint32_t i = 0; i < job->options.n_choices; i++)
            if (job->choices[i].is_open && job->choices[i].pending >= 0)
                add_item(work, n++, job, &job->choices[i], &job->choices[i].pending, 1);
    return n;
}

/* The job whose prompt is read next: of the key that waited longest, the one that did. */
static kvf_job *next_reader(const kvf_work *work)
{
    kvf_job *next = NULL;
    uint64_t next_key = 0;
    for (kvf_job *job = work->running; job; job = job->next) {
        if (!is_reading(job) || (job->awaited_job > 0 && is_awaited(work, job)))
            continue;
        const uint64_t key = kvf_turns_last(&work->reading, job->options.key);
        if (!next || key < next_key || (key == next_key && job->last_turn < next->last_turn) ||
            (key == next_key && job->last_turn == next->last_turn && job->number < next->number)) {
            next = job;
            next_key = key;
        }
    }
    return next;
}

/* A piece of a prompt as the item after the answers' n; its tokens, 0: none. */
static uint32_t add_piece(kvf_work *work, uint32_t n, double now)
{
    kvf_job *job = next_reader(work);
    if (!job)
        return 0;
    if (job->awaited_job > 0)
        resume_again(work, job);
    if (job->n_read == job->options.n_prompt) { /* it was there, to the last token */
        start_answers(work, job);
        return 0;
    }
    const uint32_t most = work->session_options.chunk_tokens;
    uint64_t piece = kvf_pace_piece(&work->pace, n, most, now);
    const uint64_t left = job->options.n_prompt - job->n_read;
    const uint64_t place = to_next_place(work, job, job->n_read);
    if (piece == 0)
        return 0;
    piece = piece < left ? piece : left;
    piece = piece < place ? piece : place;
    job->last_turn = kvf_turns_take(&work->reading, job->options.key);
    add_item(work, n, job, &job->choices[0], job->options.prompt + job->n_read, (uint32_t)piece);
    return (uint32_t)piece;
}

/* Each item has its own status. */
static void forward(kvf_work *work, kvf_batch_item *items, uint32_t n)
{
    kvf_error error;
    kvf_model_forward(work->engine->model, work->batch, items, n, &error);
}

/* Memory that was planned and is not there after all: held sessions are closed for it. */
static void run_again(kvf_work *work, kvf_batch_item *item)
{
    while (item->status == KVF_OUT_OF_MEMORY && kvf_work_evict(work, NULL, false) == KVF_EVICTED)
        forward(work, item, 1);
}

/* What became of one item. */
static void settle(kvf_work *work, const kvf_batch_item *item, kvf_job *job, kvf_choice *choice)
{
    if (item->status != KVF_OK) {
        note_loss(work, &item->error);
        end_choice(work, job, choice, KVF_JOB_FAILED, &item->error);
        if (job->n_open > 0 && job->answering_seconds <= 0)
            kvf_work_end(work, job, KVF_JOB_FAILED, &item->error);
        else if (job->n_open == 0)
            forget(work, job);
        return;
    }
    choice->has_begun = true;
    if (job->answering_seconds > 0) {
        choice->pending = -1;
        answer_or_end(work, job, choice);
        return;
    }
    take_checkpoint(job, item->session);
    job->n_read += item->n;
    work->report.read_tokens += item->n;
    tell_progress(job);
    if (job->n_read == job->options.n_prompt)
        start_answers(work, job);
}

void kvf_work_step(kvf_work *work)
{
    const double started = kvf_seconds();
    const uint32_t n_answers = add_answers(work);
    const uint32_t n_piece = add_piece(work, n_answers, started);
    const uint32_t n = n_answers + (n_piece > 0);
    if (n == 0)
        return;
    forward(work, work->items, n);
    for (uint32_t i = 0; i < n; i++)
        run_again(work, &work->items[i]);
    const double now = kvf_seconds();
    if (kvf_work_live_bytes(work) > work->report.most_bytes)
        work->report.most_bytes = kvf_work_live_bytes(work);
    kvf_pace_add(&work->pace, n_answers, n_piece, now - started, now);
    work->report.n_steps++;
    work->report.busy_seconds += now - started;
    for (uint32_t i = 0; i < n; i++)
        settle(work, &work->items[i], work->item_job[i], work->item_of[i]);
}

/* ---- The present -------------------------------------------------------------------------- */

void kvf_work_report(const kvf_work *work, kvf_scheduler_report *report)
{
    *report = work->report;
    report->parallel = work->options.parallel;
    report->queue = work->options.queue;
    report->n_running = work->n_running;
    report->memory_bytes = work->options.memory_bytes;
    report->live_bytes = kvf_work_live_bytes(work);
    for (uint32_t i = 0; i < work->prefixes.n; i++) {
        const kvf_held *held = work->prefixes.list[i];
        report->n_held += !held->runs;
        report->held_tokens += held->runs ? 0 : kvf_session_n_tokens(held->session);
    }
    if (work->shelf) {
        report->stored_files = work->shelf->n;
        report->stored_tokens = work->shelf->n_tokens;
        report->stored_bytes = work->shelf->bytes;
    }
    report->step_seconds = kvf_pace_median(&work->pace, 0, kvf_seconds());
}

uint32_t kvf_work_slots(const kvf_work *work, kvf_slot *slots, uint32_t capacity)
{
    const double now = kvf_seconds();
    uint32_t n = 0;
    for (const kvf_job *job = work->running; job; job = job->next)
        for (uint32_t i = 0; i < job->options.n_choices && n < capacity; i++)
            if (job->choices[i].is_open)
                slots[n++] = (kvf_slot){.job = job->number,
                                        .choice = i,
                                        .is_reading = job->answering_seconds <= 0,
                                        .n_prompt = job->options.n_prompt,
                                        .n_cached = job->n_cached,
                                        .n_read = job->n_read,
                                        .n_answered = job->choices[i].n_answered,
                                        .max_tokens = job->max_tokens,
                                        .seconds = now - job->began_seconds};
    return n;
}

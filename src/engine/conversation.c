#include "engine/conversation.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>

/* ---- The checkpoint's format ----------------------------------------------------------- */

static const char *mark_text(kvf_mark mark)
{
    static const char *const texts[KVF_MARK_TASKS] = {
        KVF_CHAT_BOS,   KVF_CHAT_EOS,       KVF_CHAT_USER, KVF_CHAT_ASSISTANT,
        KVF_CHAT_THINK, KVF_CHAT_END_THINK, KVF_CHAT_DSML, KVF_CHAT_REMINDER};
    return mark < KVF_MARK_TASKS ? texts[mark] : kvf_chat_task_marks[mark - KVF_MARK_TASKS + 1];
}

void kvf_conversation_of(const kvf_tokenizer *tokenizer, kvf_encoder *encoder,
                         kvf_conversation *conversation)
{
    *conversation =
        (kvf_conversation){.encoder = encoder, .tokenizer = tokenizer, .has_chat = true};
    for (int mark = 0; mark < KVF_MARKS; mark++) {
        conversation->marks[mark] = kvf_tokenizer_find(tokenizer, mark_text((kvf_mark)mark));
        if (mark < KVF_MARKS_NEEDED && conversation->marks[mark] < 0)
            conversation->has_chat = false;
    }
}

kvf_status kvf_conversation_mark_bytes(kvf_tokenizer *tokenizer, int32_t bos, int32_t eos,
                                       bool *has_room, kvf_error *error)
{
    enum { N_BYTES = 256 };
    const int32_t n_ids = (int32_t)kvf_tokenizer_n_ids(tokenizer);
    int32_t ids[KVF_MARKS] = {[KVF_MARK_BOS] = bos, [KVF_MARK_EOS] = eos};
    const char *texts[KVF_MARKS];
    int32_t next = N_BYTES;
    *has_room = kvf_tokenizer_is_bytes(tokenizer) && bos >= N_BYTES && bos < n_ids &&
                eos >= N_BYTES && eos < n_ids && bos != eos;
    for (int mark = 0; mark < KVF_MARKS; mark++) {
        texts[mark] = mark_text((kvf_mark)mark);
        if (mark == KVF_MARK_BOS || mark == KVF_MARK_EOS)
            continue;
        while (next == bos || next == eos)
            next++;
        ids[mark] = next++;
    }
    *has_room = *has_room && next <= n_ids;
    return *has_room ? kvf_tokenizer_mark_bytes(tokenizer, ids, texts, KVF_MARKS, error)
                     : kvf_ok(error);
}

/* The folder of a file, malloc'd; NULL without memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

kvf_status kvf_conversation_open(const kvf_tensor_set *files, const kvf_tokenizer *tokenizer,
                                 kvf_encoder *encoder, kvf_conversation *conversation,
                                 kvf_error *error)
{
    const char *config_path = kvf_tensor_set_config_path(files);
    kvf_conversation_of(tokenizer, encoder, conversation);
    if (!conversation->has_chat)
        return kvf_ok(error);
    char *folder = folder_of(config_path ? config_path : kvf_tensor_set_file(files, 0)->path);
    const kvf_status status = folder
                                  ? kvf_chat_texts_read(folder, files, &conversation->texts, error)
                                  : kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a path");
    free(folder);
    return status;
}

void kvf_conversation_close(kvf_conversation *conversation)
{
    kvf_chat_texts_free(&conversation->texts);
    *conversation = (kvf_conversation){.encoder = NULL};
}

/* ---- Settings -------------------------------------------------------------------------- */

/* docs/FORMAT.md 10.7: behind the version of the fingerprint. */
static const size_t settings_offset = 40;
enum { STORED_FORMAT, STORED_THINKING, STORED_EFFORT, STORED_RELEASE, N_STORED };
enum { FORMAT_PLAIN, FORMAT_V4 };

static kvf_chat_settings render_settings(const kvf_conversation *conversation,
                                         const kvf_conversation_settings *settings)
{
    return (kvf_chat_settings){.thinking = settings->thinking,
                               .effort = settings->effort,
                               .release = settings->release,
                               .texts = &conversation->texts};
}

kvf_status kvf_conversation_settle(const kvf_conversation *conversation,
                                   kvf_conversation_settings *settings, bool *is_assumed,
                                   kvf_error *error)
{
    const kvf_chat_settings asked = render_settings(conversation, settings);
    kvf_chat_report report;
    kvf_prompt prompt = {.failed = false};
    const kvf_status status = kvf_chat_render(NULL, 0, "", &asked, &prompt, &report, error);
    kvf_prompt_free(&prompt);
    if (status != KVF_OK)
        return status;
    settings->release = report.release;
    *is_assumed = report.release_by == KVF_DECIDED_BY_DEFAULT;
    return KVF_OK;
}

void kvf_conversation_store(const kvf_conversation_settings *settings,
                            uint8_t state[KVF_CALLER_STATE_BYTES])
{
    uint8_t *stored = state + settings_offset;
    memset(stored, 0, N_STORED);
    if (!settings->is_chat)
        return;
    stored[STORED_FORMAT] = FORMAT_V4;
    stored[STORED_THINKING] = settings->thinking;
    stored[STORED_EFFORT] = (uint8_t)settings->effort;
    stored[STORED_RELEASE] = (uint8_t)settings->release;
}

kvf_status kvf_conversation_restore(const uint8_t state[KVF_CALLER_STATE_BYTES],
                                    kvf_conversation_settings *settings, kvf_error *error)
{
    const uint8_t *stored = state + settings_offset;
    *settings = (kvf_conversation_settings){.is_chat = false};
    if (stored[STORED_FORMAT] == FORMAT_PLAIN)
        return kvf_ok(error);
    if (stored[STORED_FORMAT] != FORMAT_V4 || stored[STORED_THINKING] > 1 ||
        stored[STORED_EFFORT] > KVF_EFFORT_MAX || stored[STORED_RELEASE] > KVF_RELEASE_0731)
        return kvf_fail(error, KVF_UNSUPPORTED,
                        "the session is a conversation of a kind (%u %u %u %u) that this version "
                        "does not know; a later one wrote it",
                        stored[STORED_FORMAT], stored[STORED_THINKING], stored[STORED_EFFORT],
                        stored[STORED_RELEASE]);
    *settings = (kvf_conversation_settings){.is_chat = true,
                                            .thinking = stored[STORED_THINKING],
                                            .effort = (kvf_effort)stored[STORED_EFFORT],
                                            .release = (kvf_release)stored[STORED_RELEASE]};
    return kvf_ok(error);
}

/* ---- Where a conversation stands -------------------------------------------------------- */

static bool is_mark(const kvf_conversation *conversation, kvf_mark mark, int32_t id)
{
    return id >= 0 && conversation->marks[mark] == id;
}

static bool is_task(const kvf_conversation *conversation, int32_t id)
{
    for (int mark = KVF_MARK_TASKS; mark < KVF_MARKS; mark++)
        if (is_mark(conversation, (kvf_mark)mark, id))
            return true;
    return false;
}

/* Whether an id begins or ends a role's part. */
static bool is_border(const kvf_conversation *conversation, int32_t id)
{
    return is_mark(conversation, KVF_MARK_EOS, id) || is_mark(conversation, KVF_MARK_USER, id) ||
           is_mark(conversation, KVF_MARK_ASSISTANT, id) ||
           is_mark(conversation, KVF_MARK_BOS, id) || is_task(conversation, id);
}

bool kvf_conversation_ends(const kvf_conversation *conversation, int32_t id)
{
    return is_border(conversation, id) || is_mark(conversation, KVF_MARK_REMINDER, id);
}

/* The ids up to the last border, with it; 0: there is none. */
static size_t up_to_border(const kvf_conversation *conversation, const int32_t *ids, size_t n)
{
    while (n > 0 && !is_border(conversation, ids[n - 1]))
        n--;
    return n;
}

kvf_standing kvf_conversation_place(const kvf_conversation *conversation, const int32_t *ids,
                                    size_t n)
{
    const size_t at = up_to_border(conversation, ids, n);
    kvf_standing place = {.kind = n > 0 ? KVF_STANDS_BETWEEN : KVF_STANDS_AT_START};
    if (at == 0)
        return place;
    if (is_mark(conversation, KVF_MARK_USER, ids[at - 1])) {
        place.kind = KVF_STANDS_IN_QUESTION;
    } else if (is_task(conversation, ids[at - 1])) {
        place = (kvf_standing){.kind = KVF_STANDS_IN_ANSWER, .answer_at = at};
    } else if (is_mark(conversation, KVF_MARK_ASSISTANT, ids[at - 1])) {
        place.kind = KVF_STANDS_IN_ANSWER;
        place.lacks_mode = at == n;
        place.has_thought = at < n && is_mark(conversation, KVF_MARK_THINK, ids[at]);
        place.is_reasoning = place.has_thought;
        place.answer_at = at + (at < n);
        for (size_t i = place.answer_at; i < n && place.is_reasoning; i++)
            place.is_reasoning = !is_mark(conversation, KVF_MARK_END_THINK, ids[i]);
    }
    return place;
}

size_t kvf_conversation_before_turn(const kvf_conversation *conversation, const int32_t *ids,
                                    size_t n)
{
    size_t at = n;
    while (at > 0 && !is_mark(conversation, KVF_MARK_USER, ids[at - 1]))
        at--;
    if (at == 0)
        return n;
    const size_t user = at - 1;
    const size_t before = up_to_border(conversation, ids, user);
    if (before == 0 || is_mark(conversation, KVF_MARK_BOS, ids[before - 1]))
        return 0;
    return is_mark(conversation, KVF_MARK_EOS, ids[before - 1]) ? before - 1 : user;
}

/* ---- Ids -------------------------------------------------------------------------------- */

/* Encodes and frees the prompt. */
static kvf_status encode(const kvf_conversation *conversation, kvf_prompt *prompt, kvf_ids *ids,
                         kvf_error *error)
{
    const kvf_status status = kvf_encode_prompt(conversation->encoder, prompt, ids, error);
    kvf_prompt_free(prompt);
    return status;
}

/* What makes the model answer. */
static void write_answer_mark(const kvf_conversation_settings *settings, bool with_role,
                              kvf_prompt *prompt)
{
    if (with_role)
        kvf_prompt_marker(prompt, KVF_CHAT_ASSISTANT);
    kvf_prompt_marker(prompt, settings->thinking ? KVF_CHAT_THINK : KVF_CHAT_END_THINK);
}

/* More of a user's turn that is held: an empty line is what the format has between two texts. */
static void write_more(const kvf_conversation_settings *settings, kvf_span user, kvf_prompt *prompt)
{
    kvf_prompt_text(prompt, "\n\n", 2);
    kvf_prompt_text(prompt, user.data, user.bytes);
    write_answer_mark(settings, true, prompt);
}

static kvf_status write_turn(const kvf_conversation *conversation,
                             const kvf_conversation_settings *settings, bool is_first,
                             kvf_span system, kvf_span user, kvf_prompt *prompt, kvf_error *error)
{
    /* What is rendered already is one answer to the writer, whatever it is. */
    kvf_message messages[3] = {{.role = KVF_ROLE_ASSISTANT}};
    size_t n = 1;
    kvf_chat_settings how = render_settings(conversation, settings);
    how.n_context = !is_first;
    if (!is_first) /* it stands at the beginning, in words that need not be there any more */
        how.effort = KVF_EFFORT_NONE;
    if (system.data)
        messages[n++] = (kvf_message){.role = KVF_ROLE_SYSTEM, .content = system};
    messages[n++] = (kvf_message){.role = KVF_ROLE_USER, .content = user};
    return kvf_chat_render(messages + is_first, n - is_first, "turn", &how, prompt, NULL, error);
}

kvf_status kvf_conversation_turn(const kvf_conversation *conversation,
                                 const kvf_conversation_settings *settings, const int32_t *held,
                                 size_t n_held, kvf_span system, kvf_span user, kvf_ids *ids,
                                 kvf_error *error)
{
    const kvf_standing place = kvf_conversation_place(conversation, held, n_held);
    kvf_prompt prompt = {.failed = false};
    kvf_status status = KVF_OK;
    if (place.kind == KVF_STANDS_IN_QUESTION && !system.data) {
        write_more(settings, user, &prompt);
        return encode(conversation, &prompt, ids, error);
    }
    if (place.kind == KVF_STANDS_IN_QUESTION) /* a system's text stands in no turn: it ends */
        write_answer_mark(settings, true, &prompt);
    if (place.kind == KVF_STANDS_IN_QUESTION || place.kind == KVF_STANDS_IN_ANSWER)
        kvf_prompt_marker(&prompt, KVF_CHAT_EOS);
    status = write_turn(conversation, settings, place.kind == KVF_STANDS_AT_START, system, user,
                        &prompt, error);
    if (status == KVF_OK)
        return encode(conversation, &prompt, ids, error);
    kvf_prompt_free(&prompt);
    return status;
}

kvf_status kvf_conversation_go_on(const kvf_conversation *conversation,
                                  const kvf_conversation_settings *settings, const int32_t *held,
                                  size_t n_held, kvf_ids *ids, kvf_error *error)
{
    const kvf_standing place = kvf_conversation_place(conversation, held, n_held);
    kvf_prompt prompt = {.failed = false};
    if (place.kind == KVF_STANDS_IN_ANSWER && !place.lacks_mode)
        return kvf_ok(error);
    write_answer_mark(settings, place.kind != KVF_STANDS_IN_ANSWER, &prompt);
    return encode(conversation, &prompt, ids, error);
}

kvf_status kvf_conversation_messages(const kvf_conversation *conversation,
                                     const kvf_conversation_settings *settings,
                                     const kvf_message *messages, size_t n, kvf_ids *ids,
                                     kvf_chat_report *report, kvf_error *error)
{
    const kvf_chat_settings how = render_settings(conversation, settings);
    kvf_prompt prompt = {.failed = false};
    const kvf_status status =
        kvf_chat_render(messages, n, "messages", &how, &prompt, report, error);
    if (status == KVF_OK)
        return encode(conversation, &prompt, ids, error);
    kvf_prompt_free(&prompt);
    return status;
}

static kvf_status compare_system(const kvf_conversation *conversation,
                                 const kvf_conversation_settings *settings, const int32_t *held,
                                 size_t n_held, kvf_span system, bool *has_it, kvf_error *error)
{
    const kvf_message message = {.role = KVF_ROLE_SYSTEM, .content = system};
    kvf_ids ids = {.n = 0};
    const kvf_status status =
        kvf_conversation_messages(conversation, settings, &message, 1, &ids, NULL, error);
    if (status == KVF_OK)
        *has_it = ids.n < n_held && memcmp(ids.ids, held, ids.n * sizeof *held) == 0 &&
                  is_mark(conversation, KVF_MARK_USER, held[ids.n]);
    kvf_ids_free(&ids);
    return status;
}

kvf_status kvf_conversation_has_system(const kvf_conversation *conversation,
                                       const kvf_conversation_settings *settings,
                                       const int32_t *held, size_t n_held, kvf_span system,
                                       bool *has_it, kvf_error *error)
{
    /* Whether the first turn was a thinking one, and so has the effort before it, is not known. */
    kvf_conversation_settings first = {.release = settings->release};
    kvf_status status = compare_system(conversation, &first, held, n_held, system, has_it, error);
    if (status != KVF_OK || *has_it || settings->effort == KVF_EFFORT_NONE)
        return status;
    first.thinking = true;
    first.effort = settings->effort;
    return compare_system(conversation, &first, held, n_held, system, has_it, error);
}

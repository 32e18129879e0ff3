/* Messages as ids. */
#include "server/ask.h"
#include "server/replay.h"

#include "error.h"

#include <string.h>

/* A rendered prompt that is encoded part by part. */
typedef struct rendering {
    const kvf_served *served;
    const kvf_prompt *prompt;
    kvf_ids *ids;
    size_t at;     /* bytes of the prompt that are encoded */
    size_t marker; /* the first of its markers behind them */
    size_t before; /* ids up to and with the last assistant's marker; 0: there was none */
} rendering;

/* Encodes up to `end`, where the next marker ends or, where with_marker is not set, text does. */
static kvf_status encode_up_to(rendering *r, size_t end, bool with_marker, kvf_error *error)
{
    kvf_prompt part = {.n_markers = with_marker};
    kvf_marker marker;
    if (with_marker) {
        marker = r->prompt->markers[r->marker++];
        marker.at -= r->at;
        part.markers = &marker;
    }
    kvf_buffer_add(&part.text, r->prompt->text.data + r->at, end - r->at);
    part.failed = part.text.failed;
    const kvf_status status =
        kvf_encode_prompt(r->served->conversation->encoder, &part, r->ids, error);
    kvf_buffer_free(&part.text);
    r->at = end;
    return status;
}

static bool is_marker(const rendering *r, size_t i, const char *text)
{
    if (i >= r->prompt->n_markers)
        return false;
    const kvf_marker *marker = &r->prompt->markers[i];
    return kvf_span_is((kvf_span){r->prompt->text.data + marker->at, marker->bytes}, text);
}

/* The text up to the next marker, where it was sampled: its ids as they were. */
static bool take_sampled(rendering *r, kvf_replay_role role)
{
    const kvf_prompt *prompt = r->prompt;
    const size_t end =
        r->marker < prompt->n_markers ? prompt->markers[r->marker].at : prompt->text.bytes;
    const kvf_replay_key key = {.before = r->ids->ids,
                                .n_before = r->before,
                                .role = role,
                                .text = prompt->text.data + r->at,
                                .text_bytes = end - r->at};
    if (!r->served->replays || end == r->at || !kvf_replays_find(r->served->replays, &key, r->ids))
        return false;
    r->at = end;
    return true;
}

/*
 * Marker by marker. Behind an assistant's stand its reasoning, between <think> and </think>, and
 * its content, from </think> on: as they were sampled, where that is known.
 */
static kvf_status encode_parts(rendering *r, kvf_error *error)
{
    kvf_status status = KVF_OK;
    while (status == KVF_OK && r->marker < r->prompt->n_markers) {
        const kvf_marker *marker = &r->prompt->markers[r->marker];
        const bool is_answer = is_marker(r, r->marker, KVF_CHAT_ASSISTANT);
        const bool thinks = is_marker(r, r->marker, KVF_CHAT_THINK);
        const bool thought = is_marker(r, r->marker, KVF_CHAT_END_THINK);
        status = encode_up_to(r, marker->at + marker->bytes, true, error);
        if (is_answer)
            r->before = r->ids->n;
        if (status == KVF_OK && thinks && is_marker(r, r->marker, KVF_CHAT_END_THINK))
            take_sampled(r, KVF_REPLAY_REASONING);
        else if (status == KVF_OK && thought && is_marker(r, r->marker, KVF_CHAT_EOS))
            take_sampled(r, KVF_REPLAY_CONTENT);
    }
    if (status == KVF_OK && r->at < r->prompt->text.bytes)
        status = encode_up_to(r, r->prompt->text.bytes, false, error);
    return status;
}

bool kvf_ask_render(const kvf_served *served, kvf_ask *ask, const kvf_message *messages, size_t n,
                    kvf_refusal *refusal)
{
    const kvf_chat_settings how = {.thinking = ask->settings.thinking,
                                   .effort = ask->settings.effort,
                                   .release = ask->settings.release,
                                   .texts = &served->conversation->texts};
    kvf_prompt prompt = {.failed = false};
    kvf_error error;
    rendering r = {.served = served, .prompt = &prompt, .ids = &ask->prompt};
    kvf_status status = kvf_chat_render(messages, n, "messages", &how, &prompt, NULL, &error);
    if (status == KVF_OK && prompt.failed)
        status = kvf_fail(&error, KVF_OUT_OF_MEMORY, "no memory for a prompt");
    if (status == KVF_OK)
        status = encode_parts(&r, &error);
    kvf_prompt_free(&prompt);
    if (status != KVF_OK)
        return kvf_refuse_error(refusal, "messages", &error);
    ask->answer_at = r.before;
    /*
     * The next turn's prompt has </think> where this one of a thinking model has <think>: behind
     * the answer's role they part. Otherwise it begins with all of this one.
     */
    ask->turn_at = ask->settings.thinking && r.before > 0 ? r.before : ask->prompt.n;
    return true;
}

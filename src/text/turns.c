#include "text/turns.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>

/* ---- The order of calls -------------------------------------------------------------- */

struct ordered {
    kvf_span id;
    size_t order; /* of the call, or of a block: what it is sorted by first */
    size_t place; /* keeps equal ones in order */
    kvf_block block;
};

static int compare_sizes(size_t a, size_t b)
{
    return a < b ? -1 : a > b;
}

static int compare_ids(kvf_span a, kvf_span b)
{
    const size_t n = a.bytes < b.bytes ? a.bytes : b.bytes;
    const int order = n ? memcmp(a.data, b.data, n) : 0;
    return order ? order : compare_sizes(a.bytes, b.bytes);
}

static int compare_calls(const void *a, const void *b)
{
    const struct ordered *left = a;
    const struct ordered *right = b;
    const int order = compare_ids(left->id, right->id);
    return order ? order : compare_sizes(left->place, right->place);
}

static int compare_blocks(const void *a, const void *b)
{
    const struct ordered *left = a;
    const struct ordered *right = b;
    const int order = compare_sizes(left->order, right->order);
    return order ? order : compare_sizes(left->place, right->place);
}

/* The calls of a message by their ids. */
struct calls {
    const kvf_message *caller; /* NULL: none yet */
    struct ordered *list;      /* [n], sorted; those that have an id */
    size_t n;
    bool is_sorted;
};

static kvf_status sort_calls(struct calls *calls, kvf_arena *arena)
{
    const kvf_message *caller = calls->caller;
    if (calls->is_sorted)
        return KVF_OK;
    calls->list = kvf_arena_array(arena, caller->n_calls, sizeof *calls->list);
    if (!calls->list)
        return KVF_OUT_OF_MEMORY;
    for (size_t i = 0; i < caller->n_calls; i++)
        if (caller->calls[i].id.bytes > 0)
            calls->list[calls->n++] = (struct ordered){.id = caller->calls[i].id, .place = i};
    qsort(calls->list, calls->n, sizeof *calls->list, compare_calls);
    calls->is_sorted = true;
    return KVF_OK;
}

/* Of calls that share an id the last one. */
static bool find_call(const struct calls *calls, kvf_span id, size_t *place)
{
    size_t low = 0;
    size_t high = calls->n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare_ids(calls->list[middle].id, id) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || !kvf_span_equal(calls->list[low - 1].id, id))
        return false;
    *place = calls->list[low - 1].place;
    return true;
}

/* Results of a turn take the places of results; texts stay where they are. */
static kvf_status sort_results(struct calls *calls, kvf_turn *turn, kvf_arena *arena)
{
    size_t n_results = 0;
    for (size_t i = 0; i < turn->n_blocks; i++)
        n_results += turn->blocks[i].is_result;
    if (n_results < 2)
        return KVF_OK;
    struct ordered *results = kvf_arena_array(arena, n_results, sizeof *results);
    if (!results || sort_calls(calls, arena) != KVF_OK)
        return KVF_OUT_OF_MEMORY;
    size_t n = 0;
    for (size_t i = 0; i < turn->n_blocks; i++) {
        const kvf_block *block = &turn->blocks[i];
        struct ordered result = {.place = n, .block = *block};
        if (!block->is_result)
            continue;
        if (!find_call(calls, block->call_id, &result.order))
            result.order = 0; /* as the first call's */
        results[n++] = result;
    }
    qsort(results, n, sizeof *results, compare_blocks);
    n = 0;
    for (size_t i = 0; i < turn->n_blocks; i++)
        if (turn->blocks[i].is_result)
            turn->blocks[i] = results[n++].block;
    return KVF_OK;
}

static kvf_status sort_all(kvf_turns *turns)
{
    struct calls calls = {.caller = NULL}; /* of the last that called tools */
    for (size_t i = 0; i < turns->n; i++) {
        kvf_turn *turn = &turns->list[i];
        if (turn->role == KVF_ROLE_ASSISTANT && turn->message->n_calls > 0)
            calls = (struct calls){.caller = turn->message};
        if (turn->role != KVF_ROLE_USER || !calls.caller)
            continue;
        if (sort_results(&calls, turn, &turns->arena) != KVF_OK)
            return KVF_OUT_OF_MEMORY;
    }
    return KVF_OK;
}

/* ---- Turns --------------------------------------------------------------------------- */

/* Whether the message goes into the user's turn before it. A task ends the turn for users. */
static bool is_fused(const kvf_turn *before, const kvf_message *message)
{
    return before && before->role == KVF_ROLE_USER &&
           (message->role == KVF_ROLE_TOOL ||
            (message->role == KVF_ROLE_USER && before->task == KVF_CHAT_TASK_NONE));
}

/* blocks has room for one of each message, in their order: those of a turn are neighbours. */
static void add_message(kvf_turns *turns, const kvf_message *message, size_t index,
                        kvf_block *blocks)
{
    const bool is_tool = message->role == KVF_ROLE_TOOL;
    const bool is_user = is_tool || message->role == KVF_ROLE_USER;
    /* What is rendered already is a turn of its own. */
    kvf_turn *turn = turns->n > turns->n_context ? &turns->list[turns->n - 1] : NULL;
    if (!is_fused(turn, message)) {
        turn = &turns->list[turns->n++];
        *turn = (kvf_turn){.message = message,
                           .message_index = index,
                           .role = is_user ? KVF_ROLE_USER : message->role,
                           .task = is_tool ? KVF_CHAT_TASK_NONE : message->task,
                           .blocks = blocks + index};
        turns->has_tools = turns->has_tools || (!is_user && message->tools);
    }
    if (is_user)
        turn->blocks[turn->n_blocks++] =
            (kvf_block){is_tool, message->content, is_tool ? message->call_id : (kvf_span){0}};
}

static void find_last_question(kvf_turns *turns)
{
    turns->last_question = (ptrdiff_t)turns->n - 1;
    while (turns->last_question >= 0 && turns->list[turns->last_question].role != KVF_ROLE_USER &&
           turns->list[turns->last_question].role != KVF_ROLE_DEVELOPER)
        turns->last_question--;
}

kvf_status kvf_turns_make(const kvf_message *messages, size_t n, size_t n_context, kvf_turns *turns,
                          kvf_error *error)
{
    *turns = (kvf_turns){0};
    turns->list = kvf_arena_array(&turns->arena, n, sizeof *turns->list);
    kvf_block *blocks = kvf_arena_array(&turns->arena, n, sizeof *blocks);
    kvf_status status = turns->list && blocks ? KVF_OK : KVF_OUT_OF_MEMORY;
    for (size_t i = 0; i < n && status == KVF_OK; i++) {
        if (i == n_context)
            turns->n_context = turns->n;
        add_message(turns, &messages[i], i, blocks);
    }
    if (n_context >= n)
        turns->n_context = turns->n;
    if (status == KVF_OK)
        status = sort_all(turns);
    if (status != KVF_OK) {
        kvf_turns_free(turns);
        return kvf_fail(error, status, "no memory for the turns of %zu messages", n);
    }
    find_last_question(turns);
    return KVF_OK;
}

void kvf_turns_drop_old(kvf_turns *turns)
{
    size_t n = 0;
    size_t n_context = 0;
    for (size_t i = 0; i < turns->n; i++) {
        const kvf_role role = turns->list[i].role;
        if ((ptrdiff_t)i < turns->last_question &&
            (role == KVF_ROLE_DEVELOPER || role == KVF_ROLE_UNKNOWN))
            continue;
        n_context += i < turns->n_context;
        turns->list[n++] = turns->list[i];
    }
    turns->n = n;
    turns->n_context = n_context;
    find_last_question(turns);
}

void kvf_turns_free(kvf_turns *turns)
{
    kvf_arena_free(&turns->arena);
    *turns = (kvf_turns){0};
}

/* ---- What the format passes over ----------------------------------------------------- */

static kvf_status check_result(struct calls *calls, const kvf_message *message, size_t i,
                               const char *where, kvf_arena *arena, kvf_error *error)
{
    size_t place;
    if (!calls->caller)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s[%zu] is the result of a tool, and no assistant's message before it has "
                        "tool_calls",
                        where, i);
    if (sort_calls(calls, arena) != KVF_OK)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for the calls of %s", where);
    /* Without any ids the order of the results is all there is. */
    const bool has_ids = calls->n > 0 || message->call_id.bytes > 0;
    if (has_ids && !find_call(calls, message->call_id, &place))
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s[%zu].tool_call_id is \"%s\"; an id of the last tool_calls was "
                        "expected",
                        where, i, kvf_span_printable(message->call_id).text);
    return KVF_OK;
}

kvf_status kvf_messages_check(const kvf_message *messages, size_t n, const char *where,
                              kvf_error *error)
{
    struct calls calls = {.caller = NULL};
    kvf_arena arena = {0};
    kvf_status status = kvf_ok(error);
    for (size_t i = 0; i < n && status == KVF_OK; i++) {
        const kvf_message *message = &messages[i];
        if (message->role == KVF_ROLE_ASSISTANT && message->n_calls > 0)
            calls = (struct calls){.caller = message};
        if (message->role == KVF_ROLE_UNKNOWN)
            status = kvf_message_fail_role(message, i, where, error);
        else if (message->role == KVF_ROLE_DEVELOPER && message->content.bytes == 0)
            status = kvf_message_fail_empty(i, where, error);
        else if (message->role == KVF_ROLE_TOOL)
            status = check_result(&calls, message, i, where, &arena, error);
    }
    kvf_arena_free(&arena);
    return status;
}

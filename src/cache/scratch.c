/* Scratch of select and attend: one of each for all layers, sized by the plan. */
#include <string.h>

#include "cache/session.h"
#include "error.h"

typedef struct part {
    void **memory;
    uint64_t bytes;
    const char *name;
} part;

#define N_PARTS 10

static void list_parts(kvf_session *session, part parts[N_PARTS])
{
    kvf_scratch *scratch = &session->scratch;
    const kvf_scratch_size *size = &session->size;
    const part all[N_PARTS] = {
        {(void **)&scratch->window, size->window_bytes, "window rows of a chunk"},
        {(void **)&scratch->visible, size->visible_bytes, "visible rows"},
        {(void **)&scratch->found, size->found_bytes, "findings"},
        {(void **)&scratch->queries, size->query_bytes, "index queries"},
        {(void **)&scratch->list, size->list_bytes, "selected rows"},
        {(void **)&scratch->list_len, size->list_len_bytes, "counts of selected rows"},
        {(void **)&scratch->scores, size->score_bytes, "the score matrix"},
        {&scratch->mask, size->mask_bytes, "the top-k mask"},
        {&scratch->select_workspace, size->select_bytes, "select's workspace"},
        {&scratch->attend_workspace, size->attend_bytes, "attend's workspace"},
    };
    memcpy(parts, all, sizeof all);
}

kvf_status kvf_scratch_open(kvf_session *session, kvf_error *error)
{
    if (session->has_scratch)
        return KVF_OK;
    part parts[N_PARTS];
    list_parts(session, parts);
    session->has_scratch = true;
    for (int i = 0; i < N_PARTS; i++) {
        if (parts[i].bytes == 0)
            continue;
        *parts[i].memory =
            kvf_device_alloc(session->device, KVF_MEMORY_SCRATCH, KVF_PLACE_DEVICE, parts[i].bytes);
        if (!*parts[i].memory) {
            kvf_scratch_close(session);
            return kvf_fail(
                error, KVF_OUT_OF_MEMORY,
                "no memory for %s: %llu bytes for chunks of %u tokens in a context of "
                "%llu, profile %s",
                parts[i].name, (unsigned long long)parts[i].bytes, session->options.chunk_tokens,
                (unsigned long long)session->options.max_tokens, session->profile->name);
        }
        session->scratch_bytes += parts[i].bytes;
    }
    return KVF_OK;
}

void kvf_scratch_close(kvf_session *session)
{
    part parts[N_PARTS];
    list_parts(session, parts);
    for (int i = 0; i < N_PARTS; i++)
        if (*parts[i].memory) {
            kvf_device_release(session->device, KVF_MEMORY_SCRATCH, *parts[i].memory,
                               parts[i].bytes);
            *parts[i].memory = NULL;
            session->scratch_bytes -= parts[i].bytes;
        }
    session->has_scratch = false;
}

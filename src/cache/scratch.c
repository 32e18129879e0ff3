/* Scratch of a batch: one of each for all layers, sized by the plan. */
#include <string.h>

#include "cache/batch.h"
#include "error.h"

typedef struct part {
    void **memory;
    uint64_t bytes;
    const char *name;
    kvf_place place;
} part;

#define N_PARTS 10

static void list_parts(kvf_batch *batch, part parts[N_PARTS])
{
    kvf_scratch *scratch = &batch->scratch;
    const kvf_scratch_size *size = &batch->size;
    const part all[N_PARTS] = {
        {(void **)&scratch->tokens, size->token_bytes, "token ids", KVF_PLACE_STAGING},
        {(void **)&scratch->window, size->window_bytes, "window rows of a chunk", KVF_PLACE_DEVICE},
        {(void **)&scratch->found, size->found_bytes, "findings", KVF_PLACE_DEVICE},
        {(void **)&scratch->queries, size->query_bytes, "index queries", KVF_PLACE_DEVICE},
        {(void **)&scratch->list, size->list_bytes, "selected rows", KVF_PLACE_DEVICE},
        {(void **)&scratch->list_len, size->list_len_bytes, "counts of selected rows",
         KVF_PLACE_DEVICE},
        {(void **)&scratch->scores, size->score_bytes, "the score matrix", KVF_PLACE_DEVICE},
        {&scratch->mask, size->mask_bytes, "the top-k mask", KVF_PLACE_DEVICE},
        {&scratch->select_workspace, size->select_bytes, "select's workspace", KVF_PLACE_DEVICE},
        {&scratch->attend_workspace, size->attend_bytes, "attend's workspace", KVF_PLACE_DEVICE},
    };
    memcpy(parts, all, sizeof all);
}

kvf_status kvf_scratch_open(kvf_batch *batch, kvf_error *error)
{
    part parts[N_PARTS];
    list_parts(batch, parts);
    for (int i = 0; i < N_PARTS; i++) {
        if (parts[i].bytes == 0)
            continue;
        *parts[i].memory =
            kvf_device_alloc(batch->device, KVF_MEMORY_SCRATCH, parts[i].place, parts[i].bytes);
        if (!*parts[i].memory)
            return kvf_fail(
                error, KVF_OUT_OF_MEMORY,
                "no memory for %s: %llu bytes for batches of %u tokens of %u sessions in a context "
                "of %llu, profile %s",
                parts[i].name, (unsigned long long)parts[i].bytes, batch->options.chunk_tokens,
                batch->options.batch_sessions, (unsigned long long)batch->options.max_tokens,
                batch->profile->name);
        batch->scratch_bytes += parts[i].bytes;
    }
    return KVF_OK;
}

void kvf_scratch_close(kvf_batch *batch)
{
    part parts[N_PARTS];
    list_parts(batch, parts);
    for (int i = 0; i < N_PARTS; i++)
        if (*parts[i].memory) {
            kvf_device_release(batch->device, KVF_MEMORY_SCRATCH, *parts[i].memory, parts[i].bytes);
            *parts[i].memory = NULL;
            batch->scratch_bytes -= parts[i].bytes;
        }
}

/* How many compressed or index rows a query sees. */
#ifndef KVF_SHARED_VISIBLE_H
#define KVF_SHARED_VISIBLE_H

#include "kvfold.h"

/* Of query i: what is given, or (ratio not 0) the rows that were complete with its token. */
static inline uint32_t kvf_visible_rows(const uint32_t *n_visible, uint64_t first_token,
                                        uint32_t ratio, uint64_t i)
{
    return ratio ? (uint32_t)((first_token + i + 1) / ratio) : n_visible[i];
}

static inline uint32_t kvf_attend_visible(const kvf_attend_args *args, uint64_t i)
{
    return kvf_visible_rows(args->n_visible, args->first_token, args->ratio, i);
}

static inline uint32_t kvf_select_visible(const kvf_select_args *args, uint64_t i)
{
    return kvf_visible_rows(args->n_visible, args->first_token, args->ratio, i);
}

#endif

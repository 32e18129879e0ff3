#include "text/whole.h"

#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

static const uint32_t no_rank = UINT32_MAX;

/* Of each token: the ranks of merges that decide. */
typedef struct ranks {
    uint32_t *made;         /* the highest that makes it; 0: none does, or the first */
    uint32_t *behind_end;   /* the lowest with the end of a character on its left */
    uint32_t *before_begin; /* the lowest with the beginning of one on its right */
} ranks;

static bool allocate(ranks *r, uint32_t n_ids)
{
    r->made = calloc(n_ids, sizeof *r->made);
    r->behind_end = malloc(n_ids * sizeof *r->behind_end);
    r->before_begin = malloc(n_ids * sizeof *r->before_begin);
    if (!r->made || !r->behind_end || !r->before_begin)
        return false;
    memset(r->behind_end, 0xff, n_ids * sizeof *r->behind_end);
    memset(r->before_begin, 0xff, n_ids * sizeof *r->before_begin);
    return true;
}

static void lower(uint32_t *rank, uint32_t other)
{
    if (other < *rank)
        *rank = other;
}

static void take_merge(const kvf_tokenizer *t, const kvf_pair *pair, ranks *r)
{
    const kvf_token *left = &t->tokens[pair->left];
    const kvf_token *right = &t->tokens[pair->right];
    const unsigned char last = (unsigned char)t->bytes.data[left->at + left->bytes - 1];
    const unsigned char first = (unsigned char)t->bytes.data[right->at];
    if (pair->rank > r->made[pair->joined])
        r->made[pair->joined] = pair->rank;
    if (last >= 0x80 && last <= 0xbf)
        lower(&r->behind_end[pair->right], pair->rank);
    if (first >= 0xe3 && first <= 0xe9)
        lower(&r->before_begin[pair->left], pair->rank);
}

/* Whether every merge ranks behind those that make its tokens; a byte is made by none. */
static bool rises(const kvf_tokenizer *t, const ranks *r)
{
    for (uint32_t i = 0; i <= t->pair_mask; i++) {
        const kvf_pair *pair = &t->pairs[i];
        if (pair->left == UINT32_MAX)
            continue;
        if ((t->tokens[pair->left].bytes > 1 && r->made[pair->left] >= pair->rank) ||
            (t->tokens[pair->right].bytes > 1 && r->made[pair->right] >= pair->rank))
            return false;
    }
    return true;
}

static const kvf_pair *find(const kvf_tokenizer *t, uint32_t left, uint32_t right)
{
    return kvf_pair_slot(t->pairs, t->pair_mask, left, right);
}

static uint32_t rank_of(const kvf_pair *pair)
{
    return pair->left == UINT32_MAX ? no_rank : pair->rank;
}

/* The token of three bytes that are always one, or -1. */
static int32_t whole_of(const kvf_tokenizer *t, const ranks *r, const unsigned char c[3])
{
    const uint32_t first = (uint32_t)t->byte_ids[c[0]];
    const uint32_t last = (uint32_t)t->byte_ids[c[2]];
    const kvf_pair *begin = find(t, first, (uint32_t)t->byte_ids[c[1]]);
    const kvf_pair *end = find(t, (uint32_t)t->byte_ids[c[1]], last);
    const bool from_begin = rank_of(begin) <= rank_of(end);
    const kvf_pair *inner = from_begin ? begin : end;
    if (rank_of(inner) == no_rank)
        return -1;
    const kvf_pair *all = from_begin ? find(t, inner->joined, last) : find(t, first, inner->joined);
    if (rank_of(all) == no_rank)
        return -1;
    const uint32_t highest = all->rank > inner->rank ? all->rank : inner->rank;
    if (r->behind_end[first] < highest || r->before_begin[last] < highest ||
        (from_begin ? r->behind_end : r->before_begin)[inner->joined] < highest)
        return -1;
    return (int32_t)all->joined;
}

static bool fill(kvf_tokenizer *t, const ranks *r)
{
    t->whole = malloc(KVF_WHOLE_COUNT * sizeof *t->whole);
    if (!t->whole)
        return false;
    for (uint32_t i = 0; i < KVF_WHOLE_COUNT; i++) {
        const uint32_t code = KVF_WHOLE_FIRST + i;
        const unsigned char c[3] = {(unsigned char)(0xe0 | code >> 12),
                                    (unsigned char)(0x80 | (code >> 6 & 0x3f)),
                                    (unsigned char)(0x80 | (code & 0x3f))};
        t->whole[i] = t->classes.of[code] & KVF_CLASS_CJK ? whole_of(t, r, c) : -1;
    }
    return true;
}

bool kvf_whole_make(kvf_tokenizer *tokenizer)
{
    ranks r = {NULL, NULL, NULL};
    bool good = allocate(&r, tokenizer->n_ids);
    for (uint32_t i = 0; good && i <= tokenizer->pair_mask; i++)
        if (tokenizer->pairs[i].left != UINT32_MAX)
            take_merge(tokenizer, &tokenizer->pairs[i], &r);
    if (good && rises(tokenizer, &r))
        good = fill(tokenizer, &r);
    free(r.made);
    free(r.behind_end);
    free(r.before_begin);
    return good;
}

#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

/* Up to here looking through all ranks each time is quicker than a heap, and needs no memory. */
enum { FEW = 48 };

static const uint32_t no_rank = UINT32_MAX;

/* A token of a long piece, at the place of its first byte. */
typedef struct kvf_bpe_symbol {
    uint32_t id;
    uint32_t rank;   /* with the next one; no_rank: they cannot be joined, or it is gone */
    uint32_t joined; /* the id of both */
    uint32_t before; /* places of its neighbours; UINT32_MAX: none */
    uint32_t next;
} kvf_bpe_symbol;

void kvf_bpe_free(kvf_bpe *bpe)
{
    free(bpe->symbols);
    free(bpe->heap);
    *bpe = (kvf_bpe){.symbols = NULL};
}

/* ---- Short pieces ------------------------------------------------------------------------- */

typedef struct few_symbols {
    uint32_t id[FEW];
    uint32_t rank[FEW]; /* of a symbol and the next one */
    uint32_t joined[FEW];
} few_symbols;

static void rank_few(const kvf_tokenizer *t, few_symbols *s, size_t i)
{
    const kvf_pair *pair = kvf_pair_slot(t->pairs, t->pair_mask, s->id[i], s->id[i + 1]);
    s->rank[i] = pair->left == UINT32_MAX ? no_rank : pair->rank;
    s->joined[i] = pair->joined;
}

static size_t encode_few(const kvf_tokenizer *t, const unsigned char *piece, size_t n, int32_t *ids)
{
    few_symbols s;
    for (size_t i = 0; i < n; i++)
        s.id[i] = (uint32_t)t->byte_ids[piece[i]];
    for (size_t i = 0; i + 1 < n; i++)
        rank_few(t, &s, i);
    s.rank[n - 1] = no_rank; /* moved along, and of no meaning */
    s.joined[n - 1] = 0;
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = s.rank[i] < s.rank[best] ? i : best;
        if (s.rank[best] == no_rank)
            break;
        s.id[best] = s.joined[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            s.id[i] = s.id[i + 1];
            s.rank[i] = s.rank[i + 1];
            s.joined[i] = s.joined[i + 1];
        }
        if (best + 1 < n)
            rank_few(t, &s, best);
        if (best > 0)
            rank_few(t, &s, best - 1);
    }
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)s.id[i];
    return n;
}

/* ---- Long ones: a heap of ranks over a list of symbols ----------------------------------------
 */

/* Rank and place in one number: the least is the lowest rank, of those the leftmost. */
static uint64_t entry_of(const kvf_bpe_symbol *symbols, uint32_t at)
{
    return (uint64_t)symbols[at].rank << 32 | at;
}

static void sift_down(uint64_t *heap, size_t n, size_t at)
{
    const uint64_t entry = heap[at];
    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (heap[child] >= entry)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = entry;
}

static void push(uint64_t *heap, size_t *n, uint64_t entry)
{
    size_t at = (*n)++;
    for (; at > 0 && heap[(at - 1) / 2] > entry; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = entry;
}

static uint64_t pop(uint64_t *heap, size_t *n)
{
    const uint64_t least = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0)
        sift_down(heap, *n, 0);
    return least;
}

/* The symbol's rank with what follows it now. */
static void rank_symbol(const kvf_tokenizer *t, kvf_bpe_symbol *symbols, uint32_t at)
{
    kvf_bpe_symbol *s = &symbols[at];
    s->rank = no_rank;
    if (s->next == UINT32_MAX)
        return;
    const kvf_pair *pair = kvf_pair_slot(t->pairs, t->pair_mask, s->id, symbols[s->next].id);
    if (pair->left == UINT32_MAX)
        return;
    s->rank = pair->rank;
    s->joined = pair->joined;
}

/*
 * One more symbol a byte than there are joins to come, and each join pushes two entries at the
 * most while it takes one off: there are never 2 bytes of them.
 */
static bool reserve(kvf_bpe *bpe, size_t bytes)
{
    if (bytes <= bpe->capacity)
        return true;
    if (bytes > SIZE_MAX / 2 / sizeof *bpe->symbols)
        return false;
    kvf_bpe_free(bpe);
    bpe->symbols = malloc(bytes * sizeof *bpe->symbols);
    bpe->heap = malloc(2 * bytes * sizeof *bpe->heap);
    if (!bpe->symbols || !bpe->heap) {
        kvf_bpe_free(bpe);
        return false;
    }
    bpe->capacity = bytes;
    return true;
}

static size_t start(kvf_bpe *bpe, const kvf_tokenizer *t, const unsigned char *piece, uint32_t n)
{
    kvf_bpe_symbol *symbols = bpe->symbols;
    size_t n_entries = 0;
    for (uint32_t i = 0; i < n; i++)
        symbols[i] = (kvf_bpe_symbol){.id = (uint32_t)t->byte_ids[piece[i]],
                                      .before = i > 0 ? i - 1 : UINT32_MAX,
                                      .next = i + 1 < n ? i + 1 : UINT32_MAX};
    for (uint32_t i = 0; i < n; i++) {
        rank_symbol(t, symbols, i);
        if (symbols[i].rank != no_rank)
            bpe->heap[n_entries++] = entry_of(symbols, i);
    }
    for (size_t i = n_entries / 2; i-- > 0;)
        sift_down(bpe->heap, n_entries, i);
    return n_entries;
}

static void join(kvf_bpe *bpe, const kvf_tokenizer *t, uint32_t at, size_t *n_entries)
{
    kvf_bpe_symbol *symbols = bpe->symbols;
    kvf_bpe_symbol *s = &symbols[at];
    symbols[s->next].rank = no_rank; /* its entry is of nobody now */
    s->id = s->joined;
    s->next = symbols[s->next].next;
    if (s->next != UINT32_MAX)
        symbols[s->next].before = at;
    rank_symbol(t, symbols, at);
    if (s->rank != no_rank)
        push(bpe->heap, n_entries, entry_of(symbols, at));
    if (s->before == UINT32_MAX)
        return;
    rank_symbol(t, symbols, s->before);
    if (symbols[s->before].rank != no_rank)
        push(bpe->heap, n_entries, entry_of(symbols, s->before));
}

bool kvf_bpe_encode(kvf_bpe *bpe, const kvf_tokenizer *tokenizer, const unsigned char *piece,
                    size_t bytes, int32_t *ids, size_t *n)
{
    if (bytes <= FEW) {
        *n = encode_few(tokenizer, piece, bytes, ids);
        return true;
    }
    if (!reserve(bpe, bytes))
        return false;
    size_t n_entries = start(bpe, tokenizer, piece, (uint32_t)bytes);
    while (n_entries > 0) {
        const uint64_t entry = pop(bpe->heap, &n_entries);
        const uint32_t at = (uint32_t)entry;
        if (bpe->symbols[at].rank ==
            entry >> 32) /* else it has another neighbour since, or is gone */
            join(bpe, tokenizer, at, &n_entries);
    }
    *n = 0;
    for (uint32_t at = 0; at != UINT32_MAX; at = bpe->symbols[at].next)
        ids[(*n)++] = (int32_t)bpe->symbols[at].id;
    return true;
}

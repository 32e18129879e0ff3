#include "text/bpe.h"

#include "error.h"

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

/* ---- The first symbols ------------------------------------------------------------------- */

/*
 * A piece whose first character is of the CJK blocks is all of such: at each of its characters
 * whole.h may have the token, else bytes are.
 */
static const int32_t *whole_characters(const kvf_tokenizer *t, const unsigned char *piece,
                                       size_t bytes)
{
    if (!t->whole || bytes < 3 || piece[0] < 0xe3 || piece[0] > 0xe9)
        return NULL;
    const uint32_t code = (piece[0] & 0xfu) << 12 | (piece[1] & 0x3fu) << 6 | (piece[2] & 0x3fu);
    /* Half a character is of no class. */
    return kvf_utf8_bytes((const char *)piece, bytes) == 3 && t->classes.of[code] & KVF_CLASS_CJK
               ? t->whole
               : NULL;
}

/* The symbol that begins at piece[at], *n bytes of it. whole: as above. */
static inline uint32_t symbol_at(const kvf_tokenizer *t, const int32_t *whole,
                                 const unsigned char *piece, size_t at, uint32_t *n)
{
    const unsigned char *c = piece + at;
    *n = 1;
    if (whole && (c[0] & 0xc0) == 0xc0) {
        const uint32_t code = (c[0] & 0xfu) << 12 | (c[1] & 0x3fu) << 6 | (c[2] & 0x3fu);
        const int32_t id = whole[code - KVF_WHOLE_FIRST];
        *n = id >= 0 ? 3 : 1;
        return id >= 0 ? (uint32_t)id : (uint32_t)t->byte_ids[c[0]];
    }
    return (uint32_t)t->byte_ids[c[0]];
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

/* The symbols of a piece, their number; 0: they are more than FEW. */
static size_t start_few(const kvf_tokenizer *t, const unsigned char *piece, size_t bytes,
                        few_symbols *s)
{
    const int32_t *whole = whole_characters(t, piece, bytes);
    size_t n = 0;
    uint32_t taken;
    for (size_t at = 0; at < bytes; at += taken) {
        if (n == FEW)
            return 0;
        s->id[n++] = symbol_at(t, whole, piece, at, &taken);
    }
    for (size_t i = 0; i + 1 < n; i++)
        rank_few(t, s, i);
    s->rank[n - 1] = no_rank; /* moved along, and of no meaning */
    s->joined[n - 1] = 0;
    return n;
}

/* The ids of n symbols, their number. */
static size_t join_few(const kvf_tokenizer *t, few_symbols *s, size_t n, int32_t *ids)
{
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = s->rank[i] < s->rank[best] ? i : best;
        if (s->rank[best] == no_rank)
            break;
        s->id[best] = s->joined[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            s->id[i] = s->id[i + 1];
            s->rank[i] = s->rank[i + 1];
            s->joined[i] = s->joined[i + 1];
        }
        if (best + 1 < n)
            rank_few(t, s, best);
        if (best > 0)
            rank_few(t, s, best - 1);
    }
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)s->id[i];
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
    const uint64_t most_bytes = bpe->most_bytes;
    if (bytes <= bpe->capacity)
        return true;
    if (bytes > SIZE_MAX / 2 / sizeof *bpe->symbols)
        return false;
    if (most_bytes > 0 && bytes > most_bytes / (sizeof *bpe->symbols + 2 * sizeof *bpe->heap))
        return false;
    kvf_bpe_free(bpe);
    bpe->most_bytes = most_bytes;
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
    const int32_t *whole = whole_characters(t, piece, n);
    kvf_bpe_symbol *symbols = bpe->symbols;
    size_t n_entries = 0;
    uint32_t before = UINT32_MAX;
    uint32_t taken;
    for (uint32_t at = 0; at < n; at += taken) {
        const uint32_t id = symbol_at(t, whole, piece, at, &taken);
        symbols[at] = (kvf_bpe_symbol){
            .id = id, .before = before, .next = at + taken < n ? at + taken : UINT32_MAX};
        before = at;
    }
    for (uint32_t at = 0; at != UINT32_MAX; at = symbols[at].next) {
        rank_symbol(t, symbols, at);
        if (symbols[at].rank != no_rank)
            bpe->heap[n_entries++] = entry_of(symbols, at);
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

static bool encode_many(kvf_bpe *bpe, const kvf_tokenizer *t, const unsigned char *piece,
                        size_t bytes, int32_t *ids, size_t *n)
{
    if (!reserve(bpe, bytes))
        return false;
    size_t n_entries = start(bpe, t, piece, (uint32_t)bytes);
    while (n_entries > 0) {
        const uint64_t entry = pop(bpe->heap, &n_entries);
        const uint32_t at = (uint32_t)entry;
        /* Else it has another neighbour since, or is gone. */
        if (bpe->symbols[at].rank == entry >> 32)
            join(bpe, t, at, &n_entries);
    }
    *n = 0;
    for (uint32_t at = 0; at != UINT32_MAX; at = bpe->symbols[at].next)
        ids[(*n)++] = (int32_t)bpe->symbols[at].id;
    return true;
}

bool kvf_bpe_encode(kvf_bpe *bpe, const kvf_tokenizer *tokenizer, const unsigned char *piece,
                    size_t bytes, int32_t *ids, size_t *n)
{
    few_symbols few;
    const size_t n_few = bytes <= 3 * FEW ? start_few(tokenizer, piece, bytes, &few) : 0;
    if (n_few == 0)
        return encode_many(bpe, tokenizer, piece, bytes, ids, n);
    *n = join_few(tokenizer, &few, n_few, ids);
    return true;
}

/* Finding added tokens in a text. Internal to src/text. */
#ifndef KVF_TEXT_ADDED_H
#define KVF_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* From a node of a tree of bytes to the one behind a byte. */
typedef struct kvf_added_edge {
    uint32_t child; /* 0: the place is free */
    uint32_t node;
    unsigned char byte;
} kvf_added_edge;

/*
 * The way from the root, node 0, spells a token. Edges are in a hash, so that a step takes the same
 * time whatever tokens there are. All zero has none.
 */
typedef struct kvf_added {
    kvf_added_edge *edges; /* [edge_mask + 1], at most half of them used */
    uint32_t edge_mask;
    int32_t *ids; /* [id_capacity], of the tokens that end at a node; -1: none does */
    uint32_t n_nodes;
    uint32_t id_capacity;
    bool begins[256]; /* whether a token begins with that byte */
} kvf_added;

/* A token of at least a byte, which is not there yet. False without memory. */
bool kvf_added_add(kvf_added *added, const char *text, size_t bytes, int32_t id);
void kvf_added_free(kvf_added *added);

/* The token of exactly that text; -1: there is none. */
int32_t kvf_added_find(const kvf_added *added, const char *text, size_t bytes);

typedef struct kvf_added_match {
    size_t at; /* the text's end where there is none */
    size_t bytes;
    int32_t id;
} kvf_added_match;

/* The leftmost token in text[at..end), the longest of those that begin there. */
kvf_added_match kvf_added_next(const kvf_added *added, const char *text, size_t at, size_t end);

#endif

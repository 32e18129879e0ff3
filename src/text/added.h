/* Finding added tokens in a text. Internal to src/text. */
#ifndef KVF_TEXT_ADDED_H
#define KVF_TEXT_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A tree of bytes: the way from the root spells a token. All zero has none. Children of a node are
 * a list, which is short: what many tokens share they share from the beginning on.
 */
typedef struct kvf_added_node {
    uint32_t child; /* the first; 0: none */
    uint32_t next;  /* child of the same node; 0: none */
    int32_t id;     /* of the token that ends here; -1: none */
    unsigned char byte;
} kvf_added_node;

typedef struct kvf_added {
    kvf_added_node *nodes; /* [n_nodes], malloc'd; the first is the root */
    uint32_t n_nodes;
    uint32_t capacity;
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

#include "text/added.h"

#include <stdlib.h>

/* The place of an edge, or the free one where it would be. */
static kvf_added_edge *edge_of(kvf_added_edge *edges, uint32_t mask, uint32_t node,
                               unsigned char byte)
{
    const uint64_t key = (uint64_t)node << 8 | byte;
    uint32_t at = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & mask; /* 2^64 / phi */
    while (edges[at].child && (edges[at].node != node || edges[at].byte != byte))
        at = (at + 1) & mask;
    return &edges[at];
}

static uint32_t child_of(const kvf_added *added, uint32_t node, unsigned char byte)
{
    return edge_of(added->edges, added->edge_mask, node, byte)->child;
}

/* Twice as many places for edges, and all of them into these. */
static bool grow_edges(kvf_added *added)
{
    const uint32_t n_old = added->edges ? added->edge_mask + 1 : 0;
    const uint32_t n = n_old ? 2 * n_old : 256;
    kvf_added_edge *larger = calloc(n, sizeof *larger);
    if (!larger)
        return false;
    for (uint32_t i = 0; i < n_old; i++) {
        const kvf_added_edge *edge = &added->edges[i];
        if (edge->child)
            *edge_of(larger, n - 1, edge->node, edge->byte) = *edge;
    }
    free(added->edges);
    added->edges = larger;
    added->edge_mask = n - 1;
    return true;
}

/* A new node, *node of it. False without memory. */
static bool make_node(kvf_added *added, uint32_t *node)
{
    if ((!added->edges || 2 * (uint64_t)added->n_nodes > added->edge_mask) && !grow_edges(added))
        return false;
    if (added->n_nodes == added->id_capacity) {
        const uint32_t larger = added->id_capacity ? 2 * added->id_capacity : 128;
        int32_t *moved = realloc(added->ids, larger * sizeof *moved);
        if (!moved)
            return false;
        added->ids = moved;
        added->id_capacity = larger;
    }
    added->ids[added->n_nodes] = -1;
    *node = added->n_nodes++;
    return true;
}

bool kvf_added_add(kvf_added *added, const char *text, size_t bytes, int32_t id)
{
    uint32_t node = 0;
    if (added->n_nodes == 0 && !make_node(added, &node))
        return false;
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];
        uint32_t child = child_of(added, node, byte);
        if (!child) {
            if (!make_node(added, &child))
                return false;
            *edge_of(added->edges, added->edge_mask, node, byte) =
                (kvf_added_edge){child, node, byte};
        }
        node = child;
    }
    added->ids[node] = id;
    added->begins[(unsigned char)text[0]] = true;
    return true;
}

void kvf_added_free(kvf_added *added)
{
    free(added->edges);
    free(added->ids);
    *added = (kvf_added){.edges = NULL};
}

int32_t kvf_added_find(const kvf_added *added, const char *text, size_t bytes)
{
    uint32_t node = 0;
    if (added->n_nodes == 0)
        return -1;
    for (size_t i = 0; i < bytes; i++) {
        node = child_of(added, node, (unsigned char)text[i]);
        if (!node)
            return -1;
    }
    return added->ids[node];
}

/* The longest token that begins at `at`. */
static kvf_added_match longest(const kvf_added *added, const char *text, size_t at, size_t end)
{
    kvf_added_match found = {at, 0, -1};
    uint32_t node = 0;
    for (size_t i = at; i < end; i++) {
        node = child_of(added, node, (unsigned char)text[i]);
        if (!node)
            break;
        if (added->ids[node] >= 0) {
            found.id = added->ids[node];
            found.bytes = i + 1 - at;
        }
    }
    return found;
}

kvf_added_match kvf_added_next(const kvf_added *added, const char *text, size_t at, size_t end)
{
    for (; at < end; at++) {
        if (!added->begins[(unsigned char)text[at]])
            continue;
        const kvf_added_match found = longest(added, text, at, end);
        if (found.id >= 0)
            return found;
    }
    return (kvf_added_match){end, 0, -1};
}

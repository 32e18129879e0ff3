#include "text/added.h"

#include <stdlib.h>

/* A new node, *node of it. False without memory. */
static bool make_node(kvf_added *added, unsigned char byte, uint32_t *node)
{
    if (added->n_nodes == added->capacity) {
        const uint32_t larger = added->capacity ? 2 * added->capacity : 256;
        kvf_added_node *moved = realloc(added->nodes, larger * sizeof *moved);
        if (!moved || larger < added->capacity) {
            added->nodes = moved ? moved : added->nodes;
            return false;
        }
        added->nodes = moved;
        added->capacity = larger;
    }
    added->nodes[added->n_nodes] = (kvf_added_node){0, 0, -1, byte};
    *node = added->n_nodes++;
    return true;
}

static uint32_t child_of(const kvf_added *added, uint32_t node, unsigned char byte)
{
    uint32_t child = added->nodes[node].child;
    while (child && added->nodes[child].byte != byte)
        child = added->nodes[child].next;
    return child;
}

bool kvf_added_add(kvf_added *added, const char *text, size_t bytes, int32_t id)
{
    uint32_t node = 0;
    if (added->n_nodes == 0 && !make_node(added, 0, &node))
        return false;
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];
        uint32_t child = child_of(added, node, byte);
        if (!child) {
            if (!make_node(added, byte, &child))
                return false;
            added->nodes[child].next = added->nodes[node].child;
            added->nodes[node].child = child;
        }
        node = child;
    }
    added->nodes[node].id = id;
    added->begins[(unsigned char)text[0]] = true;
    return true;
}

void kvf_added_free(kvf_added *added)
{
    free(added->nodes);
    *added = (kvf_added){.nodes = NULL};
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
    return added->nodes[node].id;
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
        if (added->nodes[node].id >= 0) {
            found.id = added->nodes[node].id;
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

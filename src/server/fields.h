/* Fields of a request's JSON, with what is wrong with them said by name. Internal. */
#ifndef KVF_SERVER_FIELDS_H
#define KVF_SERVER_FIELDS_H

#include "server/refusal.h"
#include "text/json.h"

/*
 * An object whose fields are read. The first that is wrong fills the refusal; what is read after
 * that, or is null, is as if it were not there.
 */
typedef struct kvf_fields {
    const kvf_node *object;
    const char *where; /* what comes before a field's name: "stream_options."; "" */
    kvf_refusal *refusal;
} kvf_fields;

/* NULL: not there, or null. */
const kvf_node *kvf_field(const kvf_fields *fields, const char *key);
/* All of these: whether it is there, and right; else *value stays. */
bool kvf_field_bool(const kvf_fields *fields, const char *key, bool *value);
bool kvf_field_number(const kvf_fields *fields, const char *key, double least, double most,
                      double *value);
bool kvf_field_float(const kvf_fields *fields, const char *key, double least, double most,
                     float *value);
/* A whole number, however it is written: 5, 5.0. */
bool kvf_field_whole(const kvf_fields *fields, const char *key, int64_t least, int64_t most,
                     int64_t *value);
bool kvf_field_string(const kvf_fields *fields, const char *key, kvf_span *value);
/* An object's own fields; *inner points into *fields and `where`. */
bool kvf_field_object(const kvf_fields *fields, const char *key, const char *where,
                      kvf_fields *inner);
/* Refuses a field that is there and is not what was expected; false. */
bool kvf_field_refuse(const kvf_fields *fields, const char *key, const kvf_node *node,
                      const char *expected);

/* The number of a node, where it is one; false where it is not, or is no double. */
bool kvf_node_number(const kvf_node *node, double *value);
bool kvf_node_whole(const kvf_node *node, int64_t *value);

#endif

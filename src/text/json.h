/*
 * JSON as the chat format needs it: what is read can be written again as Python's
 * json.dumps(value, ensure_ascii=False) writes what its json.loads has read, to the byte.
 * (src/file/json.h is for the headers of checkpoints: numbers are doubles there.) Internal.
 */
#ifndef KVF_TEXT_JSON_H
#define KVF_TEXT_JSON_H

#include "kvfold.h"
#include "text/arena.h"
#include "text/span.h"

typedef enum kvf_node_type {
    KVF_NODE_NULL,
    KVF_NODE_FALSE,
    KVF_NODE_TRUE,
    KVF_NODE_NUMBER,
    KVF_NODE_STRING,
    KVF_NODE_ARRAY,
    KVF_NODE_OBJECT
} kvf_node_type;

/* A value. The text may be one of 0 bytes, and have NUL characters (from \u0000). */
typedef struct kvf_node {
    kvf_node_type type;
    kvf_span text;          /* a string's characters, in UTF-8; a number as it was written */
    kvf_span key;           /* of a member of an object */
    struct kvf_node *first; /* of an array or object, in the order of the text */
    struct kvf_node *next;  /* of the array or object that this is in */
    size_t n;               /* of an array or object: values in it */
} kvf_node;

/* A whole text, and the memory of its values. */
typedef struct kvf_tree {
    kvf_arena arena;
    kvf_node *root;
} kvf_tree;

/* Far above what people nest; the reader and the writer call themselves once a level. */
#define KVF_TREE_MAX_DEPTH 500
#define KVF_TREE_MAX_BYTES 100000000
/* Each costs some 100 bytes, whatever its text is: "1," is 2. */
#define KVF_TREE_MAX_NODES 4000000

typedef enum kvf_json_rules {
    /* RFC 8259. A key that one object has twice is refused; a byte order mark is passed over. */
    KVF_JSON_STRICT,
    /*
     * What Python's json.loads takes: also NaN, Infinity and -Infinity, and of a key that is
     * there twice the last value, in the first one's place. For text that a model wrote.
     */
    KVF_JSON_PYTHON
} kvf_json_rules;

/*
 * Reads one value, with nothing but white space around it; `where` names the text in messages
 * ("FILE: line 3, column 7: .."; columns count characters from 1). KVF_FILE_FORMAT: not JSON,
 * not UTF-8, a bound above exceeded, or half of a surrogate pair (\ud800 alone: no character;
 * Python reads it and then cannot encode it). KVF_OUT_OF_MEMORY. \u0000 is a character like
 * others. Numbers may be of any length and size. *tree is to be freed after KVF_OK only; it
 * holds copies, `text` may go.
 */
kvf_status kvf_tree_read(const char *text, size_t bytes, kvf_json_rules rules, const char *where,
                         kvf_tree *tree, kvf_error *error);
void kvf_tree_free(kvf_tree *tree);

/* A code point up to 10FFFF as UTF-8 to out, which has room for 4; its bytes. */
size_t kvf_utf8_write(uint32_t code, char *out);

/* The member of an object; NULL where there is none, or node is NULL or no object. */
const kvf_node *kvf_node_member(const kvf_node *node, const char *key);
/* Whether Python takes it for true: not NULL, null, false, "", [], {}, or a zero. */
bool kvf_node_is_true(const kvf_node *node);
/* "a string", "an object": what messages say a value is; NULL is "missing". */
const char *kvf_node_what(const kvf_node *node);

/*
 * Appends the value as json.dumps(.., ensure_ascii=False) does: ", " and ": " between values,
 * whole numbers with all their digits (-0 is 0 to Python), others as repr of the nearest double
 * (1e5 is 100000.0, 1e999 is Infinity), of characters only " \ and those below a space escaped.
 */
void kvf_json_write(const kvf_node *node, kvf_buffer *buffer);
/* A string in quotes, the same way; bytes that are not UTF-8 are copied as they are. */
void kvf_json_write_string(kvf_span text, kvf_buffer *buffer);
/* The same of a text that ends with a NUL. */
void kvf_json_write_chars(const char *text, kvf_buffer *buffer);

#endif

/*
 * Strings that a Python source assigns to names of its module, read without running it: plain
 * literals, also several in a row or in parentheses, and dicts of them. Internal.
 */
#ifndef KVF_TEXT_PYTHON_H
#define KVF_TEXT_PYTHON_H

#include "kvfold.h"
#include "text/arena.h"
#include "text/span.h"

/*
 * A place in the source. All functions leave it unspecified where they return false, which they
 * do for everything that is not exactly what they are for.
 */
typedef struct kvf_python {
    kvf_span source;
    size_t at;
    kvf_arena *arena; /* of the strings that are read */
    size_t depth;     /* of brackets: inside of some, a line break is no end */
    bool failed;      /* memory is short */
} kvf_python;

/*
 * Goes to the value of `name = ..` or `name: TYPE = ..`. False where the source is not UTF-8, the
 * name is not assigned, or it is assigned twice, further inside, or by other means: its value is
 * not certain then.
 */
bool kvf_python_find(kvf_python *python, const char *name);

/*
 * A string: '', "" or three of either, with Python's escapes but \N{..}, no prefix but u;
 * several in a row are one.
 */
bool kvf_python_string(kvf_python *python, kvf_span *string);

/* A bracket, a comma or a colon, and the space before it. */
bool kvf_python_take(kvf_python *python, char character);

/* Whether the statement ends here. */
bool kvf_python_ends(kvf_python *python);

#endif

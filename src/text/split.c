/*
 * Three patterns, one after the other, each isolating its matches in the pieces that the
 * former left (docs/TEXT.md):
 *     \p{N}{1,3}
 *     [U+4E00-U+9FA5 U+3040-U+309F U+30A0-U+30FF]+
 *     an ASCII sign and ASCII letters | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ |
 * ?[\p{P}\p{S}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+ What the first two leave is a run without
 * numbers, all in the CJK blocks or all outside of them: so for the third pattern any other
 * character is the end of its text, and all three are one walk. What no alternative matches is a
 * piece up to where one does. A mark is no letter, but the second alternative takes one at its
 * beginning either way, as the one character before the run or as its first: so both are one class.
 */
#include "text/split.h"

#include "error.h"
#include "text/unicode_classes.h"

enum { END = KVF_CLASS_MASK }; /* the class of what is not there */

typedef struct character {
    unsigned bytes;
    unsigned class; /* END: the text of the third pattern is over */
} character;

/* ---- Classes ----------------------------------------------------------------------- */

typedef struct class_table {
    const kvf_code_range *ranges;
    size_t n;
    unsigned class;
} class_table;

#define TABLE(ranges, class)                                                                       \
    {                                                                                              \
        ranges, sizeof ranges / sizeof *ranges, class                                              \
    }
static const class_table tables[] = {
    TABLE(kvf_letter_mark_ranges, KVF_CLASS_LETTER),
    TABLE(kvf_number_ranges, KVF_CLASS_NUMBER),
    TABLE(kvf_punctuation_symbol_ranges, KVF_CLASS_SIGN),
    TABLE(kvf_space_ranges, KVF_CLASS_SPACE),
};
enum { N_TABLES = sizeof tables / sizeof *tables, N_DIRECT = 65536 };

void kvf_classes_make(kvf_classes *classes)
{
    for (uint32_t code = 0; code < N_DIRECT; code++)
        classes->of[code] = (code >= 0x3040 && code <= 0x30ff) || (code >= 0x4e00 && code <= 0x9fa5)
                                ? KVF_CLASS_CJK
                                : KVF_CLASS_OTHER;
    for (size_t t = 0; t < N_TABLES; t++)
        for (size_t i = 0; i < tables[t].n && tables[t].ranges[i].first < N_DIRECT; i++)
            for (uint32_t code = tables[t].ranges[i].first;
                 code <= tables[t].ranges[i].last && code < N_DIRECT; code++)
                classes->of[code] |= (unsigned char)tables[t].class;
}

static unsigned class_of_high(uint32_t code)
{
    for (size_t t = 0; t < N_TABLES; t++) {
        size_t low = 0;
        size_t high = tables[t].n;
        while (low < high) {
            const size_t middle = (low + high) / 2;
            if (tables[t].ranges[middle].last < code)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < tables[t].n && tables[t].ranges[low].first <= code)
            return tables[t].class;
    }
    return KVF_CLASS_OTHER;
}

/* The character at `at` < end; a byte that begins none is one by itself. */
static character character_at(const kvf_classes *classes, const unsigned char *text, size_t at,
                              size_t end)
{
    const unsigned char *c = text + at;
    if (c[0] < 0x80)
        return (character){1, classes->of[c[0]]};
    const unsigned bytes = (unsigned)kvf_utf8_bytes((const char *)c, end - at);
    if (bytes == 3)
        return (character){3,
                           classes->of[(c[0] & 0xfu) << 12 | (c[1] & 0x3fu) << 6 | (c[2] & 0x3fu)]};
    if (bytes == 2)
        return (character){2, classes->of[(c[0] & 0x1fu) << 6 | (c[1] & 0x3fu)]};
    if (bytes == 4)
        return (character){4, class_of_high((c[0] & 7u) << 18 | (c[1] & 0x3fu) << 12 |
                                            (c[2] & 0x3fu) << 6 | (c[3] & 0x3fu))};
    return (character){1, KVF_CLASS_OTHER};
}

/* ---- The third pattern ----------------------------------------------------------------- */

typedef struct run {
    const kvf_classes *classes;
    const unsigned char *text;
    size_t end;
    unsigned cjk; /* KVF_CLASS_CJK or 0: what all of it is */
} run;

static inline character look(const run *r, size_t at)
{
    if (at >= r->end)
        return (character){0, END};
    character c = character_at(r->classes, r->text, at, r->end);
    if ((c.class & KVF_CLASS_CJK) != r->cjk || c.class == KVF_CLASS_NUMBER)
        return (character){0, END};
    c.class &= KVF_CLASS_MASK;
    return c;
}

static size_t skip(const run *r, size_t at, unsigned class)
{
    for (;;) {
        const character c = look(r, at);
        if (c.class != class)
            return at;
        at += c.bytes;
    }
}

static bool is_line_end(unsigned char c)
{
    return c == '\n' || c == '\r';
}

static size_t skip_line_ends(const run *r, size_t at)
{
    while (!r->cjk && at < r->end && is_line_end(r->text[at]))
        at++;
    return at;
}

static bool is_ascii_letter(const run *r, size_t at)
{
    return at < r->end && ((r->text[at] >= 'a' && r->text[at] <= 'z') ||
                           (r->text[at] >= 'A' && r->text[at] <= 'Z'));
}

/* \s*[\r\n]+ | \s+(?!\S) | \s+ from the space at `at` on. */
static size_t match_spaces(const run *r, size_t at)
{
    size_t line_end = 0; /* behind the last one */
    size_t last = at;    /* where the last space begins */
    size_t next = at;
    character c = look(r, at);
    while (c.class == KVF_CLASS_SPACE) {
        last = next;
        next += c.bytes;
        if (is_line_end(r->text[last]))
            line_end = next;
        c = look(r, next);
    }
    if (line_end > 0)
        return line_end;
    return c.class == END || last == at ? next : last;
}

/* The end of the match that begins at `at`; `at` itself where there is none. */
static size_t match(const run *r, size_t at)
{
    const character c = look(r, at);
    const size_t next = at + c.bytes;
    if (c.class == KVF_CLASS_LETTER)
        return skip(r, next, KVF_CLASS_LETTER);
    if (c.class == END)
        return at;
    if (c.class == KVF_CLASS_SIGN) {
        size_t end = next;
        if (r->text[at] < 0x80 && is_ascii_letter(r, next)) {
            while (is_ascii_letter(r, end))
                end++;
            return end;
        }
        return skip_line_ends(r, skip(r, next, KVF_CLASS_SIGN));
    }
    const unsigned after = look(r, next).class;
    if (after == KVF_CLASS_LETTER && !is_line_end(r->text[at]))
        return skip(r, next, KVF_CLASS_LETTER);
    if (after == KVF_CLASS_SIGN && r->text[at] == ' ')
        return skip_line_ends(r, skip(r, next, KVF_CLASS_SIGN));
    return c.class == KVF_CLASS_SPACE ? match_spaces(r, at) : at;
}

size_t kvf_split_next(const kvf_classes *classes, const unsigned char *text, size_t at, size_t end)
{
    character c = character_at(classes, text, at, end);
    if (c.class == KVF_CLASS_NUMBER) {
        for (int n = 0; n < 3 && c.class == KVF_CLASS_NUMBER; n++) {
            at += c.bytes;
            c = at < end ? character_at(classes, text, at, end) : (character){0, END};
        }
        return at;
    }
    const run r = {classes, text, end, c.class & KVF_CLASS_CJK};
    size_t matched = match(&r, at);
    if (matched > at)
        return matched;
    do { /* what is matched by nothing, up to a match or the end */
        at += c.bytes;
        c = look(&r, at);
        matched = match(&r, at);
    } while (c.class != END && matched == at);
    return at;
}

/* ---- Where a text can be cut -------------------------------------------------------------- */

/* The class of the character that ends at `at` > 0. */
static unsigned class_before(const kvf_classes *classes, const unsigned char *text, size_t at)
{
    size_t first = at - 1;
    while (first > 0 && at - first < 4 && (text[first] & 0xc0) == 0x80)
        first--;
    const character c = character_at(classes, text, first, at);
    return c.bytes == at - first ? c.class : KVF_CLASS_OTHER;
}

/*
 * No piece goes over a border of numbers or of the CJK blocks, from a letter on to anything
 * else, or from a line's end to what is no space; nor does one depend on what is beyond.
 */
size_t kvf_split_cut(const kvf_classes *classes, const unsigned char *text, size_t bytes)
{
    for (size_t at = bytes; at-- > 1;) {
        if ((text[at] & 0xc0) == 0x80)
            continue;
        if (text[at] >= 0x80 && kvf_utf8_bytes((const char *)text + at, bytes - at) == 0)
            continue; /* its rest may come yet */
        const unsigned after = character_at(classes, text, at, bytes).class;
        const unsigned before = class_before(classes, text, at);
        const unsigned kind = before & KVF_CLASS_MASK;
        if ((before & KVF_CLASS_CJK) != (after & KVF_CLASS_CJK) ||
            (before == KVF_CLASS_NUMBER) != (after == KVF_CLASS_NUMBER) ||
            (kind == KVF_CLASS_LETTER && (after & KVF_CLASS_MASK) != KVF_CLASS_LETTER) ||
            (is_line_end(text[at - 1]) && (after & KVF_CLASS_MASK) != KVF_CLASS_SPACE))
            return at;
    }
    return 0;
}

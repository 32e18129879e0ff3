/* Characters that are one token whatever stands beside them. Internal to src/text. */
#ifndef KVF_TEXT_WHOLE_H
#define KVF_TEXT_WHOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvf_tokenizer;

/* Of U+3000 to U+9FFF, where all of the CJK blocks that are split off lie. */
enum { KVF_WHOLE_FIRST = 0x3000, KVF_WHOLE_COUNT = 0x7000 };

/*
 * Pieces of the CJK blocks have no spaces: they are long, rarely the same, and three bytes a
 * character. Joining the bytes of one character can be left out where that comes before anything
 * else, which is proved here from the merges, once, for each character:
 *   - Every merge ranks behind those that make its two tokens. So the lowest rank only rises while
 *     a piece is joined: what is joined at a rank is joined before anything of a higher one.
 *   - By itself the character becomes one token; R is the highest rank of the merges on that way.
 *   - No merge that could take a part of it together with the character beside it ranks below R.
 *     Beside it is another one of the blocks, as all of the piece is: on its left a byte
 *     that ends a character, on its right one that begins one (0xe3 to 0xe9).
 * Then all characters that hold for are whole before a merge of rank R or higher is looked at, and
 * merges with the whole character rank higher.
 * Fills tokenizer->whole: the token, or -1; leaves it NULL where the first point does not hold.
 * False without memory.
 */
bool kvf_whole_make(struct kvf_tokenizer *tokenizer);

#endif

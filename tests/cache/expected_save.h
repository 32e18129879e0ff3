/*
 * What a save must write: docs/FORMAT.md 10.4 and 10.5 once more, with nothing of the
 * library's layout. Follows one file through its saves (without compression) and says
 * what each of them reports, to the byte.
 */
#ifndef KVF_TEST_EXPECTED_SAVE_H
#define KVF_TEST_EXPECTED_SAVE_H

#include "kvfold.h"

#define EXPECTED_MOST_PARTS 4096
#define EXPECTED_MOST_CHECKPOINTS 64

typedef struct expected_part {
    uint32_t stream;
    uint32_t number; /* of the layer or checkpoint */
    uint32_t first_page;
    uint32_t n_pages;
} expected_part;

/* A file as its last save left it. */
typedef struct expected_file {
    const kvf_geometry *geometry;
    kvf_profile_id profile;
    uint64_t n_tokens;
    kvf_save_report report;
    uint32_t n_checkpoints;
    uint64_t checkpoints[EXPECTED_MOST_CHECKPOINTS]; /* their places */
    uint32_t n_parts;
    expected_part parts[EXPECTED_MOST_PARTS];
} expected_file;

/*
 * The session's checkpoints, all taken by commit, go into the files that are expected from now on
 * as the default has it; NULL: those that the file has, which begins with none.
 */
extern const kvf_session *expected_session;
/*
 * In a file that is another session's: window rows before, and checkpoints at or before these
 * tokens are the saved one's too. UINT64_MAX: all before kept_tokens, as in a session's own.
 */
extern uint64_t expected_kept_window;
extern uint64_t expected_kept_checkpoint;

/* A first save, or one that writes the file anew. */
void expected_new(expected_file *file, const kvf_geometry *geometry, kvf_profile_id profile,
                  uint64_t n_tokens);
/*
 * A later one by a session that held kept_tokens at the fewest since. `always`: also where
 * most of the file is unused then, and it would be written anew otherwise.
 */
void expected_later(expected_file *file, uint64_t kept_tokens, uint64_t n_tokens, bool always);
/* Fails the running test where the report is not the file's. */
void expected_check(const expected_file *file, const kvf_save_report *report);

#endif

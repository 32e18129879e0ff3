/* An output never takes the place of an input of the same run, nor of another output. */
#ifndef KVF_CLI_OVERLAP_H
#define KVF_CLI_OVERLAP_H

#include <sys/stat.h>

#include "cli/options.h"

/*
 * Compares all files that the options name for writing, and standard output, with all that
 * are read: by what they are, whatever their names (links of both kinds, other spellings).
 * Returns 0, or prints which are the same and returns the exit status. To be called before
 * anything is written.
 */
int cli_overlap_check(const cli_options *options);

/* Whether that is the file that standard output goes to. */
bool cli_is_output(const struct stat *file);

#endif

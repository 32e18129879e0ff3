/* Files of weights that somebody shortens while they are mapped and read. */
#ifndef KVF_CLI_LOST_FILES_H
#define KVF_CLI_LOST_FILES_H

#include "file/tensor_set.h"

/*
 * From now on a SIGBUS at an address of the set's files is not the end of the process: what
 * is gone reads as zeros, and kvf_tensor_set_check_lost says so when the step has ended. A
 * SIGBUS for any other reason goes where it went before. False: there are too many sets, or the
 * system refuses the handler; it ends the process then, as it would have. The set is
 * released with cli_lost_files_forget before it is closed. One thread at a time calls these.
 */
bool cli_lost_files_watch(kvf_tensor_set *set);
/* Also of a set that is not watched, and of NULL. */
void cli_lost_files_forget(kvf_tensor_set *set);

#endif

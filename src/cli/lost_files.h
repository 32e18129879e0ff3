/* Files of weights that somebody shortens while they are mapped and read. */
#ifndef KVF_CLI_LOST_FILES_H
#define KVF_CLI_LOST_FILES_H

#include "file/tensor_set.h"

/*
 * From now on a SIGBUS at an address of the files of *set is not the end of the process: what
 * is gone reads as zeros, and kvf_tensor_set_check_lost says so when the step has ended. *set
 * may be NULL until kvf_tensor_set_open puts the set there, so that it is watched while it is
 * opened. A SIGBUS for any other reason goes where it went before. False: there are too many
 * sets, or the system refuses the handler; it ends the process then, as it would have. It is
 * released with cli_lost_files_forget before the set is closed, and *set stays where it is
 * until then. One thread at a time calls these.
 */
bool cli_lost_files_watch(kvf_tensor_set *const *set);
/* Also of one that is not watched. */
void cli_lost_files_forget(kvf_tensor_set *const *set);

#endif

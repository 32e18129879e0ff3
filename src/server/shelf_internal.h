/* What the parts of shelf.h know of each other. Internal to shelf*.c. */
#ifndef KVF_SERVER_SHELF_INTERNAL_H
#define KVF_SERVER_SHELF_INTERNAL_H

#include "server/shelf.h"

/* A malloc'd path in the folder. */
kvf_status kvf_shelf_path(const kvf_shelf *shelf, const char *name, const char *suffix, char **path,
                          kvf_error *error);
/* Takes the record of a file into the list; KVF_OUT_OF_MEMORY: it is still the caller's. */
kvf_status kvf_shelf_put_on(kvf_shelf *shelf, kvf_stored *stored, kvf_error *error);
void kvf_stored_free(kvf_stored *stored);
/* Removes files until a new one of so many bytes fits beside the others. */
kvf_status kvf_shelf_make_room(kvf_shelf *shelf, const kvf_stored *but, uint64_t bytes,
                               kvf_error *error);
/* Gives up what is saved and restored, and ends the threads. */
void kvf_shelf_stop_tasks(kvf_shelf *shelf);

#endif

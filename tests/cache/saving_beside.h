/* A save that a thread writes, taken piece by piece by the one that has the device. */
#ifndef KVF_TEST_SAVING_BESIDE_H
#define KVF_TEST_SAVING_BESIDE_H

#include "snapshot_support.h"

typedef struct beside {
    kvf_save *save;
    pthread_t writer;
    pthread_mutex_t mutex;
    pthread_cond_t told;
    bool is_wanted; /* since the last look */
    bool is_done;
    kvf_status status;
    kvf_error error;
    kvf_save_report report;
} beside;

/* Begins one, which must succeed, on that disk; the writer starts. */
void beside_begin(beside *one, kvf_session *session, const char *path,
                  const kvf_save_options *options, const kvf_io *io);
/* Waits until the writer wants bytes, and gives it at most so many. False: it is done. */
bool beside_piece(beside *one, uint64_t max_bytes);
/* Pieces until it is done. */
void beside_finish(beside *one, uint64_t max_bytes);
/* After the writer is done: ends the save; session: as for kvf_save_end. */
kvf_status beside_end(beside *one, kvf_session *session);

#endif

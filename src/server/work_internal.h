/* What the parts of work.h know of each other. Internal to work*.c. */
#ifndef KVF_SERVER_WORK_INTERNAL_H
#define KVF_SERVER_WORK_INTERNAL_H

#include "server/work.h"

/* What sessions may have, of what is left to this process and on the device now; where they are
 * saved, what a save takes is left for it. */
uint64_t kvf_work_memory_left(const kvf_engine *engine, bool saves);
/* What sessions have now, checkpoints too. */
uint64_t kvf_work_live_bytes(const kvf_work *work);

typedef enum kvf_room {
    KVF_ROOM,
    KVF_NO_ROOM_NOW, /* others have to end first */
    KVF_NO_ROOM      /* nothing is left to close, or the error says what failed */
} kvf_room;
/* Closes what is held, but for what the job resumes from, until it fits. */
kvf_room kvf_work_make_room(kvf_work *work, const kvf_job *job, const kvf_resume *resume,
                            kvf_error *error);
typedef enum kvf_evicted {
    KVF_EVICTED,
    KVF_IS_SAVED_FIRST, /* its memory is there when a save has ended */
    KVF_NONE_TO_EVICT
} kvf_evicted;
/*
 * Closes the held session that is least worth its memory; where that may be waited for, one that is
 * not on the disk goes there first, if the disk is well. Else it is dropped, and counted.
 */
kvf_evicted kvf_work_evict(kvf_work *work, const kvf_held *but, bool may_wait);
/* Memory that is waited for comes when a save ends: that it is one that ends. */
void kvf_work_want_saved(kvf_work *work, kvf_held *held);
/* Whoever runs in this session copies again what it writes next: it is about to be forked. */
void kvf_work_expect_copies(kvf_work *work, const kvf_held *held);
/* Begins to restore what a file has of a job's text, where that is worth it. */
typedef enum kvf_restores {
    KVF_RESTORES_NOT,
    KVF_RESTORES,        /* this, or another one that goes before: the job waits for its end */
    KVF_RESTORES_NOT_NOW /* there is no memory for it until something ends */
} kvf_restores;
kvf_restores kvf_work_restore(kvf_work *work, kvf_job *job, const kvf_resume *resume);

#endif

/* What the parts of work.h know of each other. Internal to work*.c. */
#ifndef KVF_SERVER_WORK_INTERNAL_H
#define KVF_SERVER_WORK_INTERNAL_H

#include "server/work.h"

/* What sessions may have, of what is left to this process and on the device now. */
uint64_t kvf_work_memory_left(const kvf_engine *engine);
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
/* Closes the held session that is least worth its memory, saved where that is quick. false: none.
 */
bool kvf_work_evict(kvf_work *work, const kvf_held *but);
/* Whoever runs in this session copies again what it writes next: it is about to be forked. */
void kvf_work_expect_copies(kvf_work *work, const kvf_held *held);

#endif

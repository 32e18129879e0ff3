/*
 * What runs: jobs that have left the queue, their sessions, and one step after the other. Internal
 * to server/; the scheduler's thread alone.
 */
#ifndef KVF_SERVER_WORK_H
#define KVF_SERVER_WORK_H

#include "server/job.h"
#include "server/needs.h"
#include "server/pace.h"
#include "server/turns.h"

typedef struct kvf_work {
    kvf_engine *engine;
    kvf_scheduler_options options; /* resolved */
    kvf_session_options session_options;
    kvf_needs needs;
    kvf_prefixes prefixes;
    kvf_shelf *shelf;     /* NULL: nothing is kept on the disk */
    double saved_seconds; /* when a save ended last */
    double waits_seconds; /* since when memory is waited for that a save gives back; 0: it is not */
    double patience_seconds;  /* so long it is */
    uint64_t restoring_bytes; /* that what is restored may still come to take */
    kvf_pace pace;
    kvf_drawing drawing;
    kvf_job *running;   /* a list */
    uint32_t n_running; /* choices of these jobs, those that have ended as well */
    uint64_t n_begun;
    uint64_t n_ended;    /* jobs that left what runs, and saves: there may be memory */
    uint64_t n_restored; /* restores that ended, well or not */
    kvf_turns reading;   /* keys, by pieces of prompts */
    kvf_batch *batch;
    kvf_batch_item *items;       /* [parallel + 1] */
    kvf_choice **item_of;        /* [parallel + 1]; NULL: the piece's */
    kvf_job **item_job;          /* [parallel + 1] */
    kvf_scheduler_report report; /* what only counts up */
    kvf_error lost;              /* what no request can go on after: device or weights are gone */
} kvf_work;

/*
 * options are resolved, but for memory_bytes. Closed by kvf_work_close, after a failure too. `wake`
 * is called by other threads, when kvf_work_disk has something to do.
 */
kvf_status kvf_work_open(kvf_engine *engine, const kvf_scheduler_options *options,
                         void (*wake)(void *user), void *wake_user, kvf_work *work,
                         kvf_error *error);
void kvf_work_close(kvf_work *work);

/*
 * The most that a job could take, with nothing held that it begins with; and max_tokens where the
 * job leaves them to the limits. Any thread.
 */
kvf_status kvf_work_most_bytes(const kvf_work *work, const kvf_job *job, uint64_t *bytes,
                               kvf_error *error);

typedef enum kvf_begun {
    KVF_BEGUN,       /* or it failed, and has ended */
    KVF_NO_MEMORY,   /* until n_ended changes */
    KVF_IS_RESTORED, /* what a file has of it; until n_restored changes */
} kvf_begun;
/* Begins a job, closing held sessions for its memory where it has to be. */
kvf_begun kvf_work_begin(kvf_work *work, kvf_job *job);
/* Ends all open choices of a job that runs. It is gone then. */
void kvf_work_end(kvf_work *work, kvf_job *job, kvf_job_end end, const kvf_error *error);
/* Ends those that were cancelled. */
void kvf_work_end_cancelled(kvf_work *work);
/* A token of all that answer, and a piece of a prompt. Something runs. */
void kvf_work_step(kvf_work *work);
/*
 * Between two steps: what there is to do for the disk, as much as is no pause to speak of. Sessions
 * that are held and not saved are, one after the other; what is restored goes on. kvf_work_hand
 * follows behind the step.
 */
typedef enum kvf_disk_state {
    KVF_DISK_IDLE,
    KVF_DISK_WAITS, /* `wake` is called */
    KVF_DISK_GOES_ON
} kvf_disk_state;
kvf_disk_state kvf_work_disk(kvf_work *work);
void kvf_work_hand(kvf_work *work);
/* Fills what of the report is about the present. */
void kvf_work_report(const kvf_work *work, kvf_scheduler_report *report);

uint32_t kvf_work_slots(const kvf_work *work, kvf_slot *slots, uint32_t capacity);

/* Tells the ends of all open choices of a job that never ran, and releases it. */
void kvf_job_end_all(kvf_job *job, kvf_job_end end, const kvf_error *error);

#endif

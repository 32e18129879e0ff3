/*
 * A thread that waits for the disk in place of the one that has the device: it does one task after
 * the other, in the order in which they came. Internal to server/.
 */
#ifndef KVF_SERVER_DISK_H
#define KVF_SERVER_DISK_H

#include "kvfold.h"

typedef struct kvf_disk kvf_disk;

/* Part of what it is about. Nothing of it is looked at once `run` was called. */
typedef struct kvf_disk_task {
    void (*run)(struct kvf_disk_task *task); /* on that thread */
    struct kvf_disk_task *next;
} kvf_disk_task;

/* KVF_OUT_OF_MEMORY. */
kvf_status kvf_disk_open(kvf_disk **disk, kvf_error *error);
/* When all tasks are done. NULL is fine. */
void kvf_disk_close(kvf_disk *disk);
void kvf_disk_add(kvf_disk *disk, kvf_disk_task *task);
/* Waits until all that was added is done. */
void kvf_disk_drain(kvf_disk *disk);

#endif

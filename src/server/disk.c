#include "server/disk.h"

#include <pthread.h>
#include <stdlib.h>

#include "error.h"

struct kvf_disk {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    kvf_disk_task *first;
    kvf_disk_task **end; /* where the next one is linked */
    bool is_closing;
    bool is_working;
};

/* The next task, or NULL: it is over. */
static kvf_disk_task *next_task(kvf_disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    disk->is_working = false;
    if (!disk->first)
        pthread_cond_broadcast(&disk->changed);
    while (!disk->first && !disk->is_closing)
        pthread_cond_wait(&disk->changed, &disk->mutex);
    kvf_disk_task *task = disk->first;
    disk->is_working = task != NULL;
    if (task)
        disk->first = task->next;
    if (!disk->first)
        disk->end = &disk->first;
    pthread_mutex_unlock(&disk->mutex);
    return task;
}

static void *run(void *user)
{
    kvf_disk *disk = user;
    for (kvf_disk_task *task; (task = next_task(disk));)
        task->run(task);
    return NULL;
}

kvf_status kvf_disk_open(kvf_disk **out, kvf_error *error)
{
    kvf_disk *disk = calloc(1, sizeof *disk);
    *out = NULL;
    if (!disk)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory for a thread that writes files");
    disk->end = &disk->first;
    pthread_mutex_init(&disk->mutex, NULL); /* default attributes: neither can fail */
    pthread_cond_init(&disk->changed, NULL);
    if (pthread_create(&disk->thread, NULL, run, disk) != 0) {
        pthread_cond_destroy(&disk->changed);
        pthread_mutex_destroy(&disk->mutex);
        free(disk);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "the system refuses a thread that writes files");
    }
    *out = disk;
    return kvf_ok(error);
}

void kvf_disk_close(kvf_disk *disk)
{
    if (!disk)
        return;
    pthread_mutex_lock(&disk->mutex);
    disk->is_closing = true;
    pthread_cond_broadcast(&disk->changed);
    pthread_mutex_unlock(&disk->mutex);
    pthread_join(disk->thread, NULL);
    pthread_cond_destroy(&disk->changed);
    pthread_mutex_destroy(&disk->mutex);
    free(disk);
}

void kvf_disk_add(kvf_disk *disk, kvf_disk_task *task)
{
    task->next = NULL;
    pthread_mutex_lock(&disk->mutex);
    *disk->end = task;
    disk->end = &task->next;
    pthread_cond_broadcast(&disk->changed);
    pthread_mutex_unlock(&disk->mutex);
}

void kvf_disk_drain(kvf_disk *disk)
{
    pthread_mutex_lock(&disk->mutex);
    while (disk->first || disk->is_working)
        pthread_cond_wait(&disk->changed, &disk->mutex);
    pthread_mutex_unlock(&disk->mutex);
}

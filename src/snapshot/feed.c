/*
 * Pages from the device into the parts of a file (docs/SAVING.md): who writes wants parts, whoever
 * has the device reads them. Where both are one thread, wanting a part is all that happens before
 * it is taken.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "error.h"
#include "snapshot/snapshot.h"

void kvf_feed_open(kvf_feed *feed, const kvf_snapshot_source *source, bool is_beside)
{
    memset(feed, 0, sizeof *feed);
    feed->source = source;
    feed->is_beside = is_beside;
    feed->n_buffers = is_beside ? KVF_FEED_BUFFERS : 1; /* a second one is for what is ahead */
    pthread_mutex_init(&feed->mutex, NULL);             /* default attributes: neither can fail */
    pthread_cond_init(&feed->changed, NULL);
}

void kvf_feed_close(kvf_feed *feed)
{
    for (uint32_t i = 0; i < KVF_FEED_BUFFERS; i++)
        free(feed->buffers[i]);
    pthread_cond_destroy(&feed->changed);
    pthread_mutex_destroy(&feed->mutex);
}

/* ---- Of who writes --------------------------------------------------------------------- */

kvf_status kvf_feed_begin(kvf_feed *feed, size_t largest_part_bytes, kvf_error *error)
{
    kvf_status status = KVF_OK;
    pthread_mutex_lock(&feed->mutex);
    /* An attempt that failed may have left reads into the buffers. */
    while (feed->is_beside && feed->is_queued && !feed->is_stopped)
        pthread_cond_wait(&feed->changed, &feed->mutex);
    feed->n_wanted = 0;
    feed->n_taken = 0;
    for (uint32_t i = 0; i < feed->n_buffers && largest_part_bytes > feed->buffer_bytes; i++) {
        free(feed->buffers[i]);
        feed->buffers[i] = malloc(largest_part_bytes);
        if (!feed->buffers[i])
            status = kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to save by parts of %zu bytes",
                              largest_part_bytes);
    }
    if (largest_part_bytes > feed->buffer_bytes)
        feed->buffer_bytes = status == KVF_OK ? largest_part_bytes : 0;
    pthread_mutex_unlock(&feed->mutex);
    return status;
}

bool kvf_feed_is_full(const kvf_feed *feed)
{
    return feed->n_wanted == feed->n_buffers; /* the writer's own count: it alone changes it */
}

void kvf_feed_want(kvf_feed *feed, uint64_t number, const kvf_stream *stream, kvf_part *part)
{
    pthread_mutex_lock(&feed->mutex);
    const uint64_t at = feed->n_taken + feed->n_wanted;
    feed->wanted[feed->n_wanted++] = (kvf_wanted){.number = number,
                                                  .stream = *stream,
                                                  .part = part,
                                                  .first_page = part->first_page,
                                                  .n_pages = part->n_pages,
                                                  .buffer = feed->buffers[at % feed->n_buffers]};
    pthread_mutex_unlock(&feed->mutex);
    if (feed->wants)
        feed->wants(feed->wants_context);
}

/* Queues reads of what is wanted: of so many bytes, or a page. With the mutex. */
static uint64_t read_wanted(kvf_feed *feed, uint64_t max_bytes)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < feed->n_wanted; i++) {
        kvf_wanted *wanted = &feed->wanted[i];
        const uint64_t page_bytes = wanted->stream.page_bytes;
        for (; wanted->n_read < wanted->n_pages && feed->failure.status == KVF_OK;
             wanted->n_read++, bytes += page_bytes) {
            if (bytes > 0 && bytes + page_bytes > max_bytes)
                return bytes;
            feed->is_queued = true;
            kvf_source_read_page(feed->source, wanted->number, &wanted->stream,
                                 wanted->first_page + wanted->n_read,
                                 wanted->buffer + wanted->n_read * page_bytes, &feed->failure);
        }
    }
    return bytes;
}

/* Waits for the device, and counts what was read as there. With the mutex. */
static void hand_read(kvf_feed *feed)
{
    kvf_device *device = feed->source->device;
    kvf_error lost = {KVF_OK, ""};
    if (feed->is_queued && device->backend->wait(device, &lost) != KVF_OK)
        feed->failure = lost;
    feed->is_queued = false;
    for (uint32_t i = 0; i < feed->n_wanted; i++)
        feed->wanted[i].is_there = feed->wanted[i].n_read == feed->wanted[i].n_pages;
    pthread_cond_broadcast(&feed->changed);
}

kvf_status kvf_feed_take(kvf_feed *feed, kvf_wanted *taken, kvf_error *error)
{
    kvf_status status = KVF_OK;
    pthread_mutex_lock(&feed->mutex);
    if (!feed->is_beside) {
        read_wanted(feed, UINT64_MAX);
        hand_read(feed);
    }
    while (!feed->wanted[0].is_there && !feed->is_stopped && feed->failure.status == KVF_OK)
        pthread_cond_wait(&feed->changed, &feed->mutex);
    if (feed->failure.status != KVF_OK)
        status = kvf_fail(error, feed->failure.status, "%s", feed->failure.message);
    else if (feed->is_stopped)
        status = kvf_fail(error, KVF_FILE_IO, "the save was given up");
    *taken = feed->wanted[0];
    feed->n_wanted--;
    feed->n_taken++;
    memmove(feed->wanted, feed->wanted + 1, feed->n_wanted * sizeof *feed->wanted);
    pthread_mutex_unlock(&feed->mutex);
    return status;
}

/* ---- Of who has the device --------------------------------------------------------------- */

uint64_t kvf_feed_read(kvf_feed *feed, uint64_t max_bytes)
{
    pthread_mutex_lock(&feed->mutex);
    const uint64_t bytes = feed->is_stopped ? 0 : read_wanted(feed, max_bytes);
    if (feed->failure.status != KVF_OK)
        pthread_cond_broadcast(&feed->changed);
    pthread_mutex_unlock(&feed->mutex);
    return bytes;
}

void kvf_feed_hand(kvf_feed *feed)
{
    pthread_mutex_lock(&feed->mutex);
    if (feed->is_queued)
        hand_read(feed);
    pthread_mutex_unlock(&feed->mutex);
}

void kvf_feed_stop(kvf_feed *feed)
{
    pthread_mutex_lock(&feed->mutex);
    feed->is_stopped = true;
    hand_read(feed);
    pthread_mutex_unlock(&feed->mutex);
}

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

static kvf_status allocate(kvf_feed *feed, size_t bytes, kvf_error *error)
{
    feed->buffer_bytes = 0;
    for (uint32_t i = 0; i < feed->n_buffers; i++) {
        free(feed->buffers[i]);
        feed->buffers[i] = malloc(bytes);
        if (!feed->buffers[i])
            return kvf_fail(error, KVF_OUT_OF_MEMORY, "no memory to save by parts of %zu bytes",
                            bytes);
    }
    feed->buffer_bytes = bytes;
    return KVF_OK;
}

kvf_status kvf_feed_begin(kvf_feed *feed, size_t largest_part_bytes, uint64_t all_bytes,
                          kvf_error *error)
{
    size_t bytes = all_bytes < KVF_SNAPSHOT_PART_BYTES ? all_bytes : KVF_SNAPSHOT_PART_BYTES;
    if (bytes < kvf_snapshot_padded(largest_part_bytes))
        bytes = kvf_snapshot_padded(largest_part_bytes);
    pthread_mutex_lock(&feed->mutex);
    /* An attempt that failed may have left reads into the buffers. */
    while (feed->is_beside && feed->is_queued && !feed->is_stopped)
        pthread_cond_wait(&feed->changed, &feed->mutex);
    feed->n_wanted = 0;
    pthread_mutex_unlock(&feed->mutex);
    memset(feed->n_in, 0, sizeof feed->n_in);
    return bytes > feed->buffer_bytes ? allocate(feed, bytes, error) : KVF_OK;
}

/* Room for so many bytes in a buffer; NULL: there is none now. */
static uint8_t *find_place(kvf_feed *feed, size_t bytes)
{
    if (feed->n_in[feed->filling] > 0 && feed->filled_bytes + bytes > feed->buffer_bytes)
        feed->filling = (feed->filling + 1) % feed->n_buffers;
    else if (feed->n_in[feed->filling] > 0)
        return feed->buffers[feed->filling] + feed->filled_bytes;
    if (feed->n_in[feed->filling] > 0) /* the other one is still in use */
        return NULL;
    feed->filled_bytes = 0;
    return feed->buffers[feed->filling];
}

bool kvf_feed_want(kvf_feed *feed, uint64_t number, const kvf_stream *stream, kvf_part *part)
{
    const size_t bytes = kvf_snapshot_padded((uint64_t)part->n_pages * stream->page_bytes);
    if (feed->n_wanted == KVF_FEED_PARTS) /* the writer's own count: it alone changes it */
        return false;
    uint8_t *data = find_place(feed, bytes);
    if (!data)
        return false;
    feed->filled_bytes += bytes;
    feed->n_in[feed->filling]++;
    pthread_mutex_lock(&feed->mutex);
    feed->wanted[(feed->first + feed->n_wanted++) % KVF_FEED_PARTS] =
        (kvf_wanted){.number = number,
                     .stream = *stream,
                     .part = part,
                     .first_page = part->first_page,
                     .n_pages = part->n_pages,
                     .buffer = feed->filling,
                     .data = data};
    pthread_mutex_unlock(&feed->mutex);
    return true;
}

void kvf_feed_release(kvf_feed *feed, const kvf_wanted *taken)
{
    feed->n_in[taken->buffer]--;
}

/* Queues reads of what is wanted: of so many bytes, or a page. With the mutex. */
static uint64_t read_wanted(kvf_feed *feed, uint64_t max_bytes)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < feed->n_wanted; i++) {
        kvf_wanted *wanted = &feed->wanted[(feed->first + i) % KVF_FEED_PARTS];
        const uint64_t page_bytes = wanted->stream.page_bytes;
        for (; wanted->n_read < wanted->n_pages && feed->failure.status == KVF_OK;
             wanted->n_read++, bytes += page_bytes) {
            if (bytes > 0 && bytes + page_bytes > max_bytes)
                return bytes;
            feed->is_queued = true;
            kvf_source_read_page(feed->source, wanted->number, &wanted->stream,
                                 wanted->first_page + wanted->n_read,
                                 wanted->data + wanted->n_read * page_bytes, &feed->failure);
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
    for (uint32_t i = 0; i < feed->n_wanted; i++) {
        kvf_wanted *wanted = &feed->wanted[(feed->first + i) % KVF_FEED_PARTS];
        wanted->is_there = wanted->n_read == wanted->n_pages;
    }
    pthread_cond_broadcast(&feed->changed);
}

kvf_status kvf_feed_take(kvf_feed *feed, kvf_wanted *taken, kvf_error *error)
{
    kvf_status status = KVF_OK;
    const kvf_wanted *oldest = &feed->wanted[feed->first];
    if (feed->wants)
        feed->wants(feed->wants_context);
    pthread_mutex_lock(&feed->mutex);
    if (!feed->is_beside && !oldest->is_there) {
        read_wanted(feed, UINT64_MAX);
        hand_read(feed);
    }
    while (!oldest->is_there && !feed->is_stopped && feed->failure.status == KVF_OK)
        pthread_cond_wait(&feed->changed, &feed->mutex);
    if (feed->failure.status != KVF_OK)
        status = kvf_fail(error, feed->failure.status, "%s", feed->failure.message);
    else if (feed->is_stopped)
        status = kvf_fail(error, KVF_FILE_IO, "the save was given up");
    *taken = *oldest;
    feed->first = (feed->first + 1) % KVF_FEED_PARTS;
    feed->n_wanted--;
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

#include "saving_beside.h"

/* f32 is the largest that a row is stored as. */
enum { MOST_PAGE_BYTES = KVF_PAGE_ROWS * KVF_ROW_WIDTH * 4 };

static void wants(void *context)
{
    beside *one = context;
    pthread_mutex_lock(&one->mutex);
    one->is_wanted = true;
    pthread_cond_signal(&one->told);
    pthread_mutex_unlock(&one->mutex);
}

static void *write_file(void *context)
{
    beside *one = context;
    one->status = kvf_save_write(one->save, wants, one, &one->report, &one->error);
    pthread_mutex_lock(&one->mutex);
    one->is_done = true;
    pthread_cond_signal(&one->told);
    pthread_mutex_unlock(&one->mutex);
    return NULL;
}

void beside_begin(beside *one, kvf_session *session, const char *path,
                  const kvf_save_options *options, const kvf_io *io)
{
    kvf_error error;
    memset(one, 0, sizeof *one);
    pthread_mutex_init(&one->mutex, NULL);
    pthread_cond_init(&one->told, NULL);
    if (kvf_save_begin_on(session, path, options, true, io, &one->save, &error) != KVF_OK)
        fail_msg("%s", error.message);
    assert_int_equal(pthread_create(&one->writer, NULL, write_file, one), 0);
}

bool beside_piece(beside *one, uint64_t max_bytes)
{
    for (;;) {
        const uint64_t bytes = kvf_save_read(one->save, max_bytes);
        kvf_save_hand(one->save);
        assert_true(bytes <= max_bytes || bytes <= MOST_PAGE_BYTES); /* one page at the least */
        if (bytes > 0)
            return true;
        pthread_mutex_lock(&one->mutex);
        while (!one->is_wanted && !one->is_done)
            pthread_cond_wait(&one->told, &one->mutex);
        const bool is_over = one->is_done;
        one->is_wanted = false;
        pthread_mutex_unlock(&one->mutex);
        if (is_over)
            return false;
    }
}

void beside_finish(beside *one, uint64_t max_bytes)
{
    while (beside_piece(one, max_bytes))
        continue;
}

kvf_status beside_end(beside *one, kvf_session *session)
{
    assert_int_equal(pthread_join(one->writer, NULL), 0);
    kvf_save_end(one->save, session);
    pthread_mutex_destroy(&one->mutex);
    pthread_cond_destroy(&one->told);
    return one->status;
}

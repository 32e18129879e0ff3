/* A save as its callers see it: in one go, or beside other work (docs/SAVING.md). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "error.h"
#include "snapshot/snapshot.h"

static kvf_status check_saveable(const kvf_session *session, const char *path, kvf_error *error)
{
    if (!path || !*path)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no path to save to");
    if (session->opened.known)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: another save of the session is not ended yet",
                        kvf_printable(path).text);
    const kvf_status status = kvf_session_check_free(session, "save", error);
    /* Nothing on the disk is touched for what a lost device held. */
    return status == KVF_OK ? session->device->backend->wait(session->device, error) : status;
}

/* From here on the session counts the fewest tokens that it has, for the save after this one. */
static void count_from_here(kvf_session *session)
{
    const uint64_t n_tokens = session->header->n_tokens;
    session->opened = (kvf_saved){.known = true,
                                  .n_tokens = n_tokens,
                                  .kept_tokens = n_tokens,
                                  .kept_window = n_tokens,
                                  .kept_checkpoint = n_tokens};
}

kvf_status kvf_save_begin_on(kvf_session *session, const char *path,
                             const kvf_save_options *options, bool is_beside, const kvf_io *io,
                             kvf_save **out, kvf_error *error)
{
    *out = NULL;
    kvf_status status = check_saveable(session, path, error);
    if (status != KVF_OK)
        return status;
    const size_t path_bytes = strlen(path) + 1;
    kvf_save *save = calloc(1, sizeof *save + path_bytes);
    if (!save)
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to save a session",
                        kvf_printable(path).text);
    if (options)
        save->options = *options;
    status =
        kvf_source_take(session, save->options.checkpoint_spacing_tokens, &save->source, error);
    if (status != KVF_OK) {
        free(save);
        return status;
    }
    memcpy(save->path, path, path_bytes);
    save->io = io;
    save->before = session->saved;
    save->was_known = session->saved.known;
    kvf_feed_open(&save->feed, &save->source, is_beside);
    count_from_here(session);
    *out = save;
    return kvf_ok(error);
}

kvf_status kvf_save_begin(kvf_session *session, const char *path, const kvf_save_options *options,
                          kvf_save **save, kvf_error *error)
{
    const kvf_status status =
        kvf_save_begin_on(session, path, options, true, &kvf_io_system, save, error);
    if (status == KVF_OK)
        (*save)->follows = true;
    return status;
}

kvf_status kvf_save_write(kvf_save *save, void (*wants)(void *context), void *context,
                          kvf_save_report *report, kvf_error *error)
{
    char *target = NULL;
    save->feed.wants = wants;
    save->feed.wants_context = context;
    if (save->follows && save->io->follow(save->io, save->path, &target) != 0)
        return kvf_io_fail(save->path, "follow the link", errno, error);
    /* A rename onto a link would take its place and leave what it leads to as it was. */
    const kvf_status status = kvf_save_to_path(save, target ? target : save->path, report, error);
    free(target);
    return status;
}

uint64_t kvf_save_read(kvf_save *save, uint64_t max_bytes)
{
    return kvf_feed_read(&save->feed, max_bytes);
}

void kvf_save_hand(kvf_save *save)
{
    kvf_feed_hand(&save->feed);
}

void kvf_save_stop(kvf_save *save)
{
    kvf_feed_stop(&save->feed);
    kvf_source_let_go(&save->source);
}

/* What the file holds of the session, which may have been cut since the save began. */
static void tell(const kvf_save *save, kvf_session *session)
{
    const kvf_saved kept = session->opened;
    session->opened.known = false;
    if (!save->after.known) {
        if (save->was_known && !save->before.known) /* the file may be anything */
            session->saved.known = false;
        return;
    }
    session->saved = kept;
    session->saved.header_checksum = save->after.header_checksum;
}

void kvf_save_end(kvf_save *save, kvf_session *session)
{
    if (!save)
        return;
    kvf_save_stop(save);
    if (session)
        tell(save, session);
    kvf_feed_close(&save->feed);
    kvf_source_close(&save->source);
    free(save);
}

/* ---- In one go ------------------------------------------------------------------------------ */

static kvf_status save_at_once(kvf_session *session, const char *path,
                               const kvf_save_options *options, bool follows, const kvf_io *io,
                               kvf_save_report *report, kvf_error *error)
{
    kvf_save *save;
    kvf_status status = kvf_save_begin_on(session, path, options, false, io, &save, error);
    if (status != KVF_OK)
        return status;
    save->follows = follows;
    status = kvf_save_write(save, NULL, NULL, report, error);
    kvf_save_end(save, session);
    return status;
}

kvf_status kvf_session_save_to(kvf_session *session, const char *path,
                               const kvf_save_options *options, kvf_save_report *report,
                               const kvf_io *io, kvf_error *error)
{
    return save_at_once(session, path, options, false, io, report, error);
}

kvf_status kvf_session_save(kvf_session *session, const char *path, const kvf_save_options *options,
                            kvf_save_report *report, kvf_error *error)
{
    return save_at_once(session, path, options, true, &kvf_io_system, report, error);
}

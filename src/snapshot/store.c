/*
 * A folder of snapshots that are found by what they begin with. The files are all there
 * is: a search reads the header and the token ids of each, which are a thousandth of it.
 *
 * The folder's lock is held while files are removed and written, so that the sum of all
 * files is never more than the budget, in however many processes. A search takes no lock:
 * a file that goes away while it looks is as good as one that was never there, and one
 * that is mapped stays readable.
 */
#include "snapshot/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/session.h"
#include "checksum.h"
#include "error.h"
#include "snapshot/eviction.h"
#include "snapshot/snapshot.h"

/* kvf_store.begun before anything was looked for or put. */
#define NOTHING_BEGUN UINT64_MAX

/* ---- Opening ------------------------------------------------------------------------- */

kvf_status kvf_store_open_on(const char *folder, uint64_t max_bytes,
                             const kvf_store_options *options, const kvf_io *io, kvf_store **store,
                             kvf_error *error)
{
    struct stat info;
    *store = NULL;
    if (!folder || !*folder)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "no folder for the store");
    if (max_bytes == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "%s: a store of 0 bytes holds nothing",
                        kvf_printable(folder).text);
    if (io->make_folder(io, folder) != 0)
        return kvf_io_fail(folder, "make the folder", errno, error);
    if (io->stat_path(io, folder, &info) != 0)
        return kvf_io_fail(folder, "look at", errno, error);
    if (!S_ISDIR(info.st_mode))
        return kvf_fail(error, KVF_FILE_IO, "%s: is not a folder", kvf_printable(folder).text);
    kvf_store *opened = calloc(1, sizeof *opened);
    char *copy = malloc(strlen(folder) + 1);
    char *note = malloc(strlen(folder) + 1 + KVF_STORE_NAME_BYTES);
    if (!opened || !copy || !note) {
        free(opened);
        free(copy);
        free(note);
        return kvf_fail(error, KVF_OUT_OF_MEMORY, "%s: no memory to open the store",
                        kvf_printable(folder).text);
    }
    strcpy(copy, folder);
    *opened = (kvf_store){
        .io = io, .folder = copy, .note = note, .max_bytes = max_bytes, .begun = NOTHING_BEGUN};
    if (options)
        opened->options = *options;
    *store = opened;
    return kvf_ok(error);
}

kvf_status kvf_store_open(const char *folder, uint64_t max_bytes, const kvf_store_options *options,
                          kvf_store **store, kvf_error *error)
{
    return kvf_store_open_on(folder, max_bytes, options, &kvf_io_system, store, error);
}

void kvf_store_close(kvf_store *store)
{
    if (!store)
        return;
    free(store->folder);
    free(store->note);
    free(store);
}

/* ---- Finding --------------------------------------------------------------------------------- */

/*
 * Removes a file that was seen to be damaged, unless its name may lead to another one by
 * now. While somebody writes to the store it stays, and is met again.
 */
static void remove_damaged(const kvf_store *store, const kvf_store_file *file, const char *path)
{
    int lock;
    if (!kvf_store_try_lock(store, &lock))
        return;
    if (kvf_store_same_file(store, file, path) && store->io->unlink(store->io, path) == 0)
        kvf_store_forget(store, file->name);
    store->io->close(store->io, lock);
}

typedef struct search {
    kvf_store *store;
    kvf_device *device;
    const int32_t *tokens;
    uint64_t n_tokens;
    const kvf_load_options *options;
    int32_t *ids; /* [n_tokens] of the file that is looked at */
    kvf_store_found found;
} search;

/* Whether it says something of the file that was tried, and not of this process or its device. */
static bool is_of_file(kvf_status status)
{
    return status == KVF_FILE_NOT_FOUND || status == KVF_FILE_IO || status == KVF_FILE_FORMAT ||
           status == KVF_WRONG_MODEL || status == KVF_INEXACT || status == KVF_UNSUPPORTED ||
           status == KVF_NOT_COVERED ||
           status == KVF_INVALID_ARGUMENT; /* a context that its tokens do not fit */
}

/* Notes a file that cannot be read; one that is damaged never can be. Others do not fit. */
static void skip_file(search *s, const kvf_store_file *file, const char *path, const kvf_error *why)
{
    if (why->status != KVF_FILE_FORMAT && why->status != KVF_FILE_IO)
        return;
    if (s->found.n_skipped++ == 0)
        s->found.skipped = *why;
    if (why->status == KVF_FILE_FORMAT)
        remove_damaged(s->store, file, path);
}

static uint64_t common_tokens(const int32_t *a, const int32_t *b, uint64_t n)
{
    uint64_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/*
 * Where the text can be taken up from the file: at its end, or at a checkpoint that is within what
 * both have in common, and before the text's end, since it has no logits. 0: nowhere.
 */
static kvf_status find_place(const search *s, const char *path, const kvf_snapshot_info *info,
                             kvf_store_file *file, kvf_error *error)
{
    file->resumed_at = 0;
    if (file->common_tokens == info->n_tokens &&
        (info->logits_known || info->n_tokens < s->n_tokens)) {
        file->resumed_at = info->n_tokens;
        return KVF_OK;
    }
    uint64_t *places = malloc((info->n_checkpoints + 1) * sizeof *places);
    if (!places)
        return kvf_store_no_memory(s->store, error);
    const kvf_status status =
        kvf_snapshot_checkpoints_from(path, places, info->n_checkpoints, s->store->io, error);
    for (uint32_t i = 0; status == KVF_OK && i < info->n_checkpoints; i++)
        if (places[i] <= file->common_tokens && places[i] < s->n_tokens)
            file->resumed_at = places[i];
    free(places);
    return status;
}

/* How much of the text the file has. Reports what is damaged as skipped. */
static kvf_status look_at(search *s, kvf_store_file *file, kvf_error *error)
{
    kvf_snapshot_info info;
    kvf_error why;
    char *path = kvf_store_path(s->store, file->name);
    if (!path)
        return kvf_store_no_memory(s->store, error);
    kvf_status status = kvf_snapshot_info_from(path, &info, s->store->io, &why);
    if (status == KVF_OK && info.model_fingerprint == s->options->model_fingerprint) {
        const uint64_t n = info.n_tokens < s->n_tokens ? info.n_tokens : s->n_tokens;
        status = kvf_snapshot_tokens_from(path, s->ids, n, s->store->io, &why);
        const uint64_t common = status == KVF_OK ? common_tokens(s->ids, s->tokens, n) : 0;
        if (common > s->found.shared_tokens)
            s->found.shared_tokens = common;
        file->common_tokens = common;
        file->n_tokens = info.n_tokens;
        file->profile = info.profile;
        if (status == KVF_OK && common > 0)
            status = find_place(s, path, &info, file, &why);
    }
    if (is_of_file(status)) {
        skip_file(s, file, path, &why);
        status = KVF_OK;
    } else if (status != KVF_OK) {
        kvf_fail(error, status, "%s", why.message);
    }
    free(path);
    return status;
}

/* Whether a is to be tried before b: it is longer, or as long and of the wanted profile. */
static bool comes_before(const search *s, const kvf_store_file *a, const kvf_store_file *b)
{
    if (a->resumed_at != b->resumed_at)
        return a->resumed_at > b->resumed_at;
    const bool wanted = s->options->session && a->profile == s->options->session->profile;
    return wanted && b->profile != s->options->session->profile;
}

/* Tries to restore; *session stays NULL where this file does not do. */
static kvf_status restore(search *s, const kvf_store_file *file, kvf_session **session,
                          kvf_error *error)
{
    kvf_error why;
    char *path = kvf_store_path(s->store, file->name);
    if (!path)
        return kvf_store_no_memory(s->store, error);
    kvf_status status =
        kvf_session_load_from(s->device, path, s->options, session, s->store->io, &why);
    if (status == KVF_OK && file->resumed_at < kvf_session_n_tokens(*session))
        status = kvf_session_truncate(*session, file->resumed_at, NULL, &why);
    /* Another process may have put another session there, were checksums equal. */
    if (*session && (status != KVF_OK || kvf_session_n_tokens(*session) != file->resumed_at ||
                     common_tokens(kvf_session_tokens(*session), s->tokens, file->resumed_at) !=
                         file->resumed_at)) {
        kvf_session_close(*session);
        *session = NULL;
    }
    if (is_of_file(status)) {
        skip_file(s, file, path, &why);
        status = KVF_OK;
    } else if (status != KVF_OK) {
        kvf_fail(error, status, "%s", why.message);
    }
    free(path);
    return status;
}

/*
 * The file was restored. It serves more texts than one where a longer one begins with it that
 * this text does not follow, or where the text ends with it, as one did before.
 */
static void note_found(search *s, kvf_store_list *list, const kvf_store_file *file)
{
    bool shared = file->shared || file->n_tokens == s->n_tokens ||
                  file->resumed_at < file->n_tokens; /* this text parts from it */
    for (size_t i = 0; i < list->n; i++)
        shared = shared || (list->files[i].n_tokens > file->n_tokens &&
                            list->files[i].common_tokens >= file->n_tokens);
    kvf_store_note_used(s->store, list, file->name, shared);
}

/* The best first, until one can be restored. */
static kvf_status restore_best(search *s, kvf_store_list *list, kvf_session **session,
                               kvf_error *error)
{
    kvf_status status = KVF_OK;
    while (!*session && status == KVF_OK) {
        kvf_store_file *best = NULL;
        for (size_t i = 0; i < list->n; i++)
            if (list->files[i].resumed_at > 0 && (!best || comes_before(s, &list->files[i], best)))
                best = &list->files[i];
        if (!best)
            break;
        status = restore(s, best, session, error);
        if (*session) {
            s->found.n_tokens = best->resumed_at;
            note_found(s, list, best);
        }
        best->resumed_at = 0;
    }
    return status;
}

kvf_status kvf_store_find(kvf_store *store, kvf_device *device, const int32_t *tokens,
                          uint64_t n_tokens, const kvf_load_options *options, kvf_session **session,
                          kvf_store_found *found, kvf_error *error)
{
    *session = NULL;
    if (found)
        memset(found, 0, sizeof *found);
    if (!options || options->model_fingerprint == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: a store is searched for one model; its fingerprint is 0",
                        kvf_printable(store->folder).text);
    if (n_tokens > KVF_MAX_CONTEXT_TOKENS)
        return kvf_fail(error, KVF_INVALID_ARGUMENT, "a text of %llu tokens; at most %llu",
                        (unsigned long long)n_tokens, (unsigned long long)KVF_MAX_CONTEXT_TOKENS);
    search s = {.store = store,
                .device = device,
                .tokens = tokens,
                .n_tokens = n_tokens,
                .options = options,
                .ids = malloc((n_tokens + 1) * sizeof *s.ids)};
    if (!s.ids)
        return kvf_store_no_memory(store, error);
    kvf_store_list list;
    kvf_status status = kvf_store_list_files(store, &list, error);
    store->begun = list.newest;
    for (size_t i = 0; i < list.n && status == KVF_OK; i++)
        if (list.files[i].kind == KVF_STORE_STATE)
            status = look_at(&s, &list.files[i], error);
    if (status == KVF_OK)
        status = restore_best(&s, &list, session, error);
    free(list.files);
    free(s.ids);
    if (found)
        *found = s.found;
    return status == KVF_OK ? kvf_ok(error) : status;
}

/* ---- Putting ----------------------------------------------------------------------------- */

void kvf_store_name(const kvf_session *session, char name[KVF_STORE_NAME_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    const uint64_t n_tokens = kvf_session_n_tokens(session);
    const uint64_t numbers[] = {
        kvf_session_model_fingerprint(session), session->header->profile, session->header->flags,
        n_tokens, kvf_checksum(kvf_session_tokens(session), n_tokens * sizeof(int32_t))};
    const uint64_t checksum = kvf_checksum(numbers, sizeof numbers);
    for (int i = 0; i < KVF_STORE_DIGITS; i++)
        name[i] = digits[checksum >> (60 - 4 * i) & 15];
    strcpy(name + KVF_STORE_DIGITS, KVF_STORE_SUFFIX);
}

/* Takes file i off the disk and off the list. */
static kvf_status remove_file(const kvf_store *store, kvf_store_list *list, size_t i,
                              kvf_error *error)
{
    char *path = kvf_store_path(store, list->files[i].name);
    if (!path)
        return kvf_store_no_memory(store, error);
    kvf_status status = KVF_OK;
    if (store->io->unlink(store->io, path) != 0 && errno != ENOENT) {
        status = kvf_io_fail(path, "remove", errno, error);
    } else {
        if (list->files[i].kind == KVF_STORE_STATE)
            kvf_store_forget(store, list->files[i].name);
        list->files[i] = list->files[--list->n];
    }
    free(path);
    return status;
}

static uint64_t sum_bytes(const kvf_store_list *list)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->n; i++)
        bytes += list->files[i].bytes;
    return bytes;
}

/* Files of dead saves, and notes on states that are not there; those that stay do no harm. */
static kvf_status remove_remains(const kvf_store *store, kvf_store_list *list, kvf_error *error)
{
    for (size_t i = list->n; i-- > 0;) {
        if (list->files[i].kind == KVF_STORE_STATE)
            continue;
        char *path = kvf_store_path(store, list->files[i].name);
        if (!path)
            return kvf_store_no_memory(store, error);
        const bool dead = list->files[i].kind == KVF_STORE_NOTE || kvf_store_is_dead(store, path);
        if (dead && (store->io->unlink(store->io, path) == 0 || errno == ENOENT))
            list->files[i] = list->files[--list->n];
        free(path);
    }
    return KVF_OK;
}

/* ---- Which states begin with which ---------------------------------------------------------- */

/*
 * The states of a model, shortest first, each with a checksum of all of its ids; one that has
 * the same checksum after as many ids begins with it.
 */
typedef struct lineage {
    const kvf_store *store;
    kvf_session *session;   /* that is put */
    kvf_kept_state *states; /* [n] of the files, then the session's */
    size_t n;
    size_t *order; /* [n_related] by length */
    size_t n_related;
    uint64_t *checksums; /* [n] */
} lineage;

/* Any other ids give another one, but for chance; a state that is taken for another's beginning
 * only leaves at another time. */
static uint64_t add_token(uint64_t checksum, int32_t token)
{
    checksum = (checksum ^ (uint32_t)token) * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio, odd */
    return checksum ^ checksum >> 29;
}

/* The parent of state i, whose ids these are, and its checksum; shorter ones have theirs. */
static void find_parent(lineage *l, size_t i, const int32_t *tokens)
{
    uint64_t checksum = 0;
    uint64_t at = 0;
    for (size_t j = 0; j < l->n_related; j++) {
        const size_t shorter = l->order[j];
        if (l->states[shorter].n_tokens >= l->states[i].n_tokens)
            break;
        while (at < l->states[shorter].n_tokens)
            checksum = add_token(checksum, tokens[at++]);
        if (checksum == l->checksums[shorter])
            l->states[i].parent = shorter;
    }
    while (at < l->states[i].n_tokens)
        checksum = add_token(checksum, tokens[at++]);
    l->checksums[i] = checksum;
}

/* Adds a state to those that can be compared, behind all that are not longer. */
static void add_related(lineage *l, size_t i)
{
    size_t at = l->n_related++;
    while (at > 0 && l->states[l->order[at - 1]].n_tokens > l->states[i].n_tokens) {
        l->order[at] = l->order[at - 1];
        at--;
    }
    l->order[at] = i;
}

/* The files of the session's model; what cannot be read is related to nothing. */
static kvf_status find_related(lineage *l, const kvf_store_list *list, kvf_error *error)
{
    for (size_t i = 0; i < list->n; i++) {
        kvf_snapshot_info info;
        if (list->files[i].kind != KVF_STORE_STATE)
            continue;
        char *path = kvf_store_path(l->store, list->files[i].name);
        if (!path)
            return kvf_store_no_memory(l->store, error);
        const kvf_status status = kvf_snapshot_info_from(path, &info, l->store->io, NULL);
        free(path);
        if (status == KVF_OUT_OF_MEMORY)
            return kvf_store_no_memory(l->store, error);
        if (status != KVF_OK)
            continue;
        l->states[i].n_tokens = info.n_tokens;
        if (info.model_fingerprint == kvf_session_model_fingerprint(l->session) && info.n_tokens)
            add_related(l, i);
    }
    add_related(l, l->n - 1);
    return KVF_OK;
}

static kvf_status find_parents(lineage *l, const kvf_store_list *list, kvf_error *error)
{
    kvf_status status = KVF_OK;
    for (size_t j = 0; j < l->n_related && status == KVF_OK; j++) {
        const size_t i = l->order[j];
        if (i == l->n - 1) {
            find_parent(l, i, kvf_session_tokens(l->session));
            continue;
        }
        const uint64_t n_tokens = l->states[i].n_tokens;
        char *path = kvf_store_path(l->store, list->files[i].name);
        int32_t *tokens = malloc(n_tokens * sizeof *tokens);
        status = path && tokens
                     ? kvf_snapshot_tokens_from(path, tokens, n_tokens, l->store->io, NULL)
                     : KVF_OUT_OF_MEMORY;
        if (status == KVF_OK)
            find_parent(l, i, tokens);
        else if (status != KVF_OUT_OF_MEMORY) /* damaged; no ids that could be compared */
            l->checksums[i] = list->files[i].inode;
        status = status == KVF_OUT_OF_MEMORY ? kvf_store_no_memory(l->store, error) : KVF_OK;
        free(tokens);
        free(path);
    }
    return status;
}

/*
 * A table of the files for snapshot/eviction.h, [list->n], and one more, of the session; to be
 * freed. What begins with the session gets its parent.
 */
static kvf_status describe(const kvf_store *store, kvf_session *session, const kvf_store_list *list,
                           uint64_t file_bytes, kvf_kept_state **states, kvf_error *error)
{
    lineage l = {.store = store,
                 .session = session,
                 .n = list->n + 1,
                 .states = calloc(list->n + 1, sizeof *l.states),
                 .order = calloc(list->n + 1, sizeof *l.order),
                 .checksums = calloc(list->n + 1, sizeof *l.checksums)};
    const bool memory = l.states && l.order && l.checksums;
    kvf_status status = memory ? KVF_OK : kvf_store_no_memory(store, error);
    for (size_t i = 0; i < list->n && memory; i++) {
        const kvf_store_file *file = &list->files[i];
        l.states[i] = (kvf_kept_state){.bytes = file->bytes,
                                       .stored = file->stored,
                                       .used = file->used,
                                       .parent = KVF_NO_STATE,
                                       .shared = file->shared,
                                       .made_now = file->stored > store->begun,
                                       .stays = file->kind != KVF_STORE_STATE};
    }
    if (memory) {
        l.states[list->n] = (kvf_kept_state){
            .n_tokens = kvf_session_n_tokens(session), .bytes = file_bytes, .parent = KVF_NO_STATE};
        status = find_related(&l, list, error);
    }
    if (status == KVF_OK)
        status = find_parents(&l, list, error);
    for (size_t i = 0; i < list->n && status == KVF_OK; i++)
        if (l.states[i].parent == list->n) {
            l.states[i].parent = l.states[list->n].parent;
            l.states[list->n].shared = true; /* a longer one went another way from here */
        }
    free(l.order);
    free(l.checksums);
    *states = l.states;
    return status;
}

/* ---- Making room and storing ------------------------------------------------------------------
 */

/* Removes a file that was chosen; it counts for nothing from then on. */
static kvf_status remove_chosen(const kvf_store *store, kvf_store_file *file, kvf_kept_state *state,
                                kvf_store_put_report *report, kvf_error *error)
{
    char *path = kvf_store_path(store, file->name);
    if (!path)
        return kvf_store_no_memory(store, error);
    const bool removed = store->io->unlink(store->io, path) == 0 || errno == ENOENT;
    const kvf_status status = removed ? KVF_OK : kvf_io_fail(path, "remove", errno, error);
    free(path);
    state->stays = true; /* it is not to be chosen again */
    if (!removed)
        return status;
    kvf_store_forget(store, file->name);
    report->n_removed++;
    report->removed_bytes += file->bytes;
    file->bytes = state->bytes = 0;
    return KVF_OK;
}

/*
 * Removes what is chosen, others where that fails. *room is false where the session does not
 * fit; states[list->n] is its own.
 */
static kvf_status make_room(const kvf_store *store, kvf_store_list *list, kvf_kept_state *states,
                            bool *room, kvf_store_put_report *report, kvf_error *error)
{
    const kvf_kept_state *fresh = &states[list->n];
    kvf_status status = KVF_OK;
    bool chosen = false; /* as it could be done */
    while (!chosen) {
        *room = kvf_choose_leaving(states, list->n, fresh, store->max_bytes);
        chosen = true;
        for (size_t i = 0; i < list->n && chosen; i++) {
            if (!states[i].leaves)
                continue;
            const kvf_status now = remove_chosen(store, &list->files[i], &states[i], report, error);
            if (now == KVF_OUT_OF_MEMORY)
                return now;
            chosen = now == KVF_OK;
            status = chosen ? status : now;
        }
    }
    if (*room)
        return KVF_OK;
    for (size_t at = fresh->parent; at != KVF_NO_STATE; at = states[at].parent)
        if (states[at].kept && states[at].bytes > 0 && report->kept_tokens == 0)
            report->kept_tokens = states[at].n_tokens;
    return status;
}

/* Writes what is not there, if there is room. list->files[..] of what left has no bytes. */
static kvf_status put_new(const kvf_store *store, kvf_session *session, const char *name,
                          const char *path, kvf_store_list *list, kvf_store_put_report *report,
                          kvf_error *error)
{
    const kvf_save_options whole = {.whole = true, .no_lock = store->options.no_lock};
    kvf_save_report saved;
    kvf_kept_state *states = NULL;
    bool room = false;
    kvf_status status = describe(store, session, list, report->file_bytes, &states, error);
    if (status == KVF_OK)
        status = make_room(store, list, states, &room, report, error);
    if (status == KVF_OK && room) {
        kvf_store_forget(store, name); /* of an earlier state of this name */
        status = kvf_session_save_to(session, path, &whole, &saved, store->io, error);
    }
    report->stored = status == KVF_OK && room;
    if (report->stored) {
        const size_t parent = states[list->n].parent;
        kvf_store_note_stored(store, list, name, states[list->n].shared);
        /* Longer ones come and go, each used once, where others part again and again. */
        if (parent != KVF_NO_STATE && states[parent].shared && states[parent].bytes > 0)
            kvf_store_note_used(store, list, list->files[parent].name, true);
        report->file_bytes = saved.file_bytes;
    }
    free(states);
    return status;
}

/*
 * Finds the place of the session's own file; list->n where there is none that is good. All
 * of it is read: a damaged one that stayed would be found, and fail, again and again.
 */
static kvf_status find_own(const kvf_store *store, kvf_store_list *list, const char *name,
                           const char *path, size_t *at, kvf_error *error)
{
    kvf_error why;
    for (*at = 0; *at < list->n && strcmp(list->files[*at].name, name) != 0;)
        ++*at;
    if (*at == list->n)
        return KVF_OK;
    kvf_status status = kvf_snapshot_verify_on(path, store->io, &why);
    if (status == KVF_OK)
        return status;
    if (status != KVF_FILE_FORMAT) /* not damage: no memory, a disk, a newer build's file */
        return kvf_fail(error, status, "%s", why.message);
    status = remove_file(store, list, *at, error);
    *at = list->n;
    return status;
}

/* With the folder's lock. */
static kvf_status put_locked(kvf_store *store, kvf_session *session, const char *name,
                             const char *path, kvf_store_list *list, kvf_store_put_report *report,
                             kvf_error *error)
{
    size_t at;
    kvf_status status = kvf_session_snapshot_bytes(session, NULL, &report->file_bytes, error);
    if (status != KVF_OK)
        return status;
    if (store->begun == NOTHING_BEGUN)
        store->begun = list->newest;
    status = remove_remains(store, list, error);
    if (status == KVF_OK)
        status = find_own(store, list, name, path, &at, error);
    if (status != KVF_OK)
        return status;
    if (at < list->n) {
        report->stored = report->was_there = true;
        report->file_bytes = list->files[at].bytes;
        kvf_store_note_used(store, list, name, true); /* two texts came to just this */
    } else if (report->file_bytes <= store->max_bytes) {
        status = put_new(store, session, name, path, list, report, error);
    }
    report->held_bytes = sum_bytes(list);
    if (report->stored && !report->was_there)
        report->held_bytes += report->file_bytes;
    return status;
}

kvf_status kvf_store_put(kvf_store *store, kvf_session *session, kvf_store_put_report *report,
                         kvf_error *error)
{
    kvf_store_put_report unused;
    kvf_store_put_report *filled = report ? report : &unused;
    char name[KVF_STORE_NAME_BYTES];
    kvf_store_list list = {.n = 0};
    int lock = -1;
    memset(filled, 0, sizeof *filled);
    if (kvf_session_n_tokens(session) == 0 || kvf_session_model_fingerprint(session) == 0)
        return kvf_fail(error, KVF_INVALID_ARGUMENT,
                        "%s: a session without tokens or of a model that is not known cannot "
                        "be found again",
                        kvf_printable(store->folder).text);
    kvf_store_name(session, name);
    char *path = kvf_store_path(store, name);
    if (!path)
        return kvf_store_no_memory(store, error);
    kvf_status status = kvf_session_check_ready(session, "save", error);
    if (status == KVF_OK)
        status = kvf_store_lock(store, &lock, error);
    if (status == KVF_OK) {
        status = kvf_store_list_files(store, &list, error);
        if (status == KVF_OK)
            status = put_locked(store, session, name, path, &list, filled, error);
        store->io->close(store->io, lock);
    }
    free(list.files);
    free(path);
    return status == KVF_OK ? kvf_ok(error) : status;
}

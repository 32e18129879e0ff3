/*
 * A page: memory of a session that others may refer to as well. Rows lie in pages of
 * KVF_PAGE_ROWS; a compressor's state and the token ids are one page each, of their
 * own size. Internal to cache/.
 *
 * A page is shared by counting: forks hold the same pages, checkpoints hold those that
 * they give back, and a save that is open those that it writes to its file. Whoever wants
 * to write a page that is not its own alone copies it first (kvf_session_own_page), and
 * begin does so for everything that the chunk will write, so that no stage has to.
 * Counters are plain: a device, all sessions on it and all pages they share belong to one
 * thread at a time.
 *
 * Two kinds of memory:
 *   - the device's, out of a slab where it has some of that size, counted once there: in class
 *     cache while a session holds the page, in class checkpoint while only checkpoints do;
 *   - an owner's, for instance the mapping of a snapshot: read-only, not counted by the
 *     device, replaced by an own copy before the first write.
 */
#ifndef KVF_CACHE_PAGE_H
#define KVF_CACHE_PAGE_H

#include "backend/backend.h"

/* Memory that pages lie in, shared by them: the first member of its owner's struct. */
typedef struct kvf_page_owner kvf_page_owner;
struct kvf_page_owner {
    uint64_t n_references; /* one for each page, and one for whoever opened it */
    /*
     * Called before bytes of a page that is not checked are read: checks the part or
     * parts that hold them, or finds that this was done. KVF_FILE_FORMAT where they are
     * not what was saved; KVF_FILE_IO where they cannot be read.
     */
    kvf_status (*check)(kvf_page_owner *owner, const void *memory, uint64_t bytes,
                        kvf_error *error);
    void (*release)(kvf_page_owner *owner); /* nothing refers to it any more */
};

/* One reference less; the last one releases. */
void kvf_page_owner_release(kvf_page_owner *owner);

typedef struct kvf_page {
    void *memory;
    uint64_t bytes;
    kvf_place place;        /* staging: the host reads and writes it by itself */
    uint32_t n_sessions;    /* places in sessions that hold it */
    uint32_t n_checkpoints; /* checkpoints (open chunks, to go back, and saves) that hold it */
    bool checked;           /* may be read; always so in device memory */
    kvf_page_owner *owner;  /* NULL: the device's memory */
    kvf_slab *slab;         /* NULL: an allocation of its own, or an owner's memory */
} kvf_page;

/* A new zeroed page of the device's memory, held by the session. NULL: no memory. */
kvf_page *kvf_session_new_page(kvf_session *session, kvf_place place, uint64_t bytes);
/*
 * A new page in the owner's memory, held by the session, not checked. Takes a reference
 * to the owner. The memory is never written. NULL: no memory.
 */
kvf_page *kvf_session_map_page(kvf_session *session, kvf_page_owner *owner, const void *memory,
                               uint64_t bytes);
void kvf_session_hold_page(kvf_session *session, kvf_page *page);
/* Gives up the session's hold; a page that nobody holds is gone. NULL is ignored. */
void kvf_session_drop_page(kvf_session *session, kvf_page *page);
/* The same for a checkpoint, for what an open chunk would go back to, or for a save. */
void kvf_page_keep(kvf_device *device, kvf_page *page);
void kvf_page_unkeep(kvf_device *device, kvf_page *page);

/* To be called before a page is read: KVF_OK at once where it is checked, or NULL. */
kvf_status kvf_page_check(kvf_page *page, kvf_error *error);

/*
 * Makes *page one that only this session holds, in the device's memory, by copying
 * where it is not (copied: a page whose whole content is about to be written need not
 * be). Where `before` is not NULL it is always replaced, and *before keeps the page
 * that it was (kvf_page_keep). KVF_OUT_OF_MEMORY, or what the check reported; *page is
 * then as it was.
 */
kvf_status kvf_session_own_page(kvf_session *session, kvf_page **page, bool copied,
                                kvf_page **before, kvf_error *error);

/* ---- Rows in pages ---------------------------------------------------------- */

/*
 * Rows of one kind in pages that come as tokens do. Views have the table of pages that lies on
 * the device, at one address for as long as the session lives. It is behind the host's own
 * until kvf_paged_rows_write, which whoever changed pages calls once for all of them.
 */
typedef struct kvf_paged_rows {
    kvf_format_id format;
    uint32_t width;
    uint64_t first_row; /* row 0 of pages[0]; not 0 where a list's front fell off */
    uint64_t max_pages;
    uint64_t n_pages;
    uint64_t n_checked; /* leading pages known to be checked: nothing to ask for them */
    void **memory;      /* [max_pages] of each page */
    void **table;       /* the same on the device */
    kvf_page **pages;   /* [max_pages]; NULL: memory that is not the session's */
} kvf_paged_rows;

uint64_t kvf_paged_rows_page_bytes(const kvf_paged_rows *rows);
/* Prepares an empty table of pages; KVF_OUT_OF_MEMORY. */
kvf_status kvf_paged_rows_open(kvf_session *session, kvf_paged_rows *rows, kvf_format_id format,
                               uint32_t width, uint64_t max_rows, kvf_error *error);
/* Gives up all pages and the table. */
void kvf_paged_rows_close(kvf_session *session, kvf_paged_rows *rows);
/* Puts a page that the session holds behind the last one; n_pages < max_pages. */
void kvf_paged_rows_put(kvf_paged_rows *rows, kvf_page *page);
/* The same with memory of somebody else. */
void kvf_paged_rows_put_memory(kvf_paged_rows *rows, void *memory);
/* Tells the device of pages first .. n_pages. */
void kvf_paged_rows_write(kvf_session *session, const kvf_paged_rows *rows, uint64_t first);
/* Allocates pages until n_rows fit, those that fell off included. On failure pages already given
 * stay and are reused. */
kvf_status kvf_paged_rows_reserve(kvf_session *session, kvf_paged_rows *rows, uint64_t n_rows,
                                  kvf_error *error);
/* kvf_session_own_page for page i. */
kvf_status kvf_paged_rows_own(kvf_session *session, kvf_paged_rows *rows, uint64_t i, bool copied,
                              kvf_page **before, kvf_error *error);
/* Gives up the pages behind row n_rows, which is first_row or more. */
void kvf_paged_rows_shrink(kvf_session *session, kvf_paged_rows *rows, uint64_t n_rows);
/* Gives up the pages before that of first_row, and tells the device. */
void kvf_paged_rows_advance(kvf_session *session, kvf_paged_rows *rows, uint64_t first_row);
/* Checks the pages of all rows before n_rows; page i alone; those of listed rows (-1: none). */
kvf_status kvf_paged_rows_check(kvf_paged_rows *rows, uint64_t n_rows, kvf_error *error);
kvf_status kvf_paged_rows_check_page(kvf_paged_rows *rows, uint64_t i, kvf_error *error);
kvf_status kvf_paged_rows_check_list(kvf_paged_rows *rows, const int32_t *list, uint64_t n,
                                     kvf_error *error);
/* Of first_row .. n_rows: row r is row r - first_row of the view. */
kvf_rows kvf_paged_rows_view(const kvf_paged_rows *rows, uint64_t n_rows);

#endif

/*
 * Snapshots: a session as a file (docs/FORMAT.md 10). Internal to snapshot/.
 *
 *   streams.c   what a session consists of: one line a stream, and how it is cut into parts
 *   file.c      a file that is read: headers, index, parts that are checked before their use
 *   source.c    what a save writes: the session as it was when the save began
 *   feed.c      its pages, from the thread that has the device to the one that writes
 *   parts.c     parts, index and headers into a file that is written
 *   save.c      a new file, or what is new in an old one
 *   saving.c    a save as its callers see it: in one go, or beside other work
 *   load.c      a session from a file; rows of one profile as rows of another
 *   info.c      what a file says of itself
 *   codec.c     zstd
 *   io.c        the system
 *   store.c, store_files.c, eviction.c   a folder of them
 *
 * A stream is a row of equal pages, and the file holds it in parts: consecutive pages, at
 * most 4 MiB, under one checksum. Rows of full pages and checkpoints never change, so a later save
 * keeps their parts; the last page and everything that is a ring is written anew.
 */
#ifndef KVF_SNAPSHOT_H
#define KVF_SNAPSHOT_H

#include <pthread.h>

#include "cache/session.h"
#include "snapshot/io.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "snapshots are little-endian and are read as they lie in memory"
#endif
_Static_assert(sizeof(size_t) == 8 && sizeof(off_t) == 8,
               "sizes of files go into size_t and off_t: 64-bit addresses and offsets needed");

#define KVF_SNAPSHOT_MAGIC "kvfold\0" /* 8 bytes with the terminator */
#define KVF_SNAPSHOT_VERSION 2u       /* that is written; version 1 is read, too */
#define KVF_SNAPSHOT_PAGE_BYTES 4096u /* parts start at multiples of it */
#define KVF_SNAPSHOT_PART_BYTES (4u << 20)
#define KVF_SNAPSHOT_HEADERS 2u
#define KVF_SNAPSHOT_GRID_OFF 1u /* bit of kvf_session_header.flags */
/* Bits of kvf_snapshot_header.state. */
#define KVF_SNAPSHOT_FROM_START 1u     /* no checkpoint was given up: the start counts as one */
#define KVF_SNAPSHOT_LOGITS_UNKNOWN 2u /* those of the last token are not, and zeros */
#define KVF_SNAPSHOT_MAX_CHECKPOINTS (KVF_MAX_CHECKPOINTS + KVF_REQUESTED_CHECKPOINTS)

/* ---- As the file has them ------------------------------------------------------ */

typedef struct __attribute__((packed)) kvf_snapshot_header {
    kvf_session_header session;
    uint32_t n_parts;
    uint64_t generation; /* number of the save; the valid header with the higher one counts */
    uint64_t index_offset;
    uint64_t index_bytes;
    uint64_t index_checksum;
    uint64_t end_bytes; /* of everything this header speaks of; what follows means nothing */
    uint64_t inexact_rows;
    uint32_t n_heads;
    uint32_t n_index_heads;
    uint32_t top_k;
    uint32_t window_tokens;
    uint64_t model_max_tokens;
    uint8_t caller_state[KVF_CALLER_STATE_BYTES];
    uint32_t n_checkpoints;
    uint32_t state;
    uint8_t zeros[KVF_SNAPSHOT_PAGE_BYTES - 200 - 8];
    uint64_t checksum; /* of all bytes before it */
} kvf_snapshot_header;
_Static_assert(sizeof(kvf_snapshot_header) == KVF_SNAPSHOT_PAGE_BYTES, "docs/FORMAT.md 10.2");

typedef struct __attribute__((packed)) kvf_snapshot_layer {
    uint32_t kind;
    uint32_t ratio;
    kvf_row_counts counts;
} kvf_snapshot_layer;
_Static_assert(sizeof(kvf_snapshot_layer) == 16, "docs/FORMAT.md 10.3");

typedef struct __attribute__((packed)) kvf_snapshot_checkpoint {
    uint64_t n_tokens;
    uint64_t inexact_rows;
    uint32_t why; /* KVF_CHECKPOINT_PERIODIC, KVF_CHECKPOINT_REQUESTED */
    uint32_t zero;
} kvf_snapshot_checkpoint;
_Static_assert(sizeof(kvf_snapshot_checkpoint) == 24, "docs/FORMAT.md 10.3");

typedef enum kvf_codec { KVF_CODEC_NONE = 0, KVF_CODEC_ZSTD = 1 } kvf_codec;

typedef struct __attribute__((packed)) kvf_part {
    uint32_t kind;   /* kvf_stream_kind */
    uint32_t number; /* of the layer or checkpoint; 0 for tokens and logits */
    uint32_t first_page;
    uint32_t n_pages;
    uint32_t codec;
    uint32_t zero;
    uint64_t offset;       /* a multiple of KVF_SNAPSHOT_PAGE_BYTES */
    uint64_t stored_bytes; /* in the file, without padding */
    uint64_t checksum;     /* of the stored bytes */
} kvf_part;
_Static_assert(sizeof(kvf_part) == 48, "docs/FORMAT.md 10.4");

/* ---- Streams ------------------------------------------------------------------------ */

typedef enum kvf_stream_kind {
    KVF_STREAM_TOKENS = 1,
    KVF_STREAM_LOGITS = 2,
    KVF_STREAM_WINDOW = 3,
    KVF_STREAM_ROWS = 4,
    KVF_STREAM_ROW_STATE = 5,
    KVF_STREAM_INDEX_ROWS = 6,
    KVF_STREAM_INDEX_STATE = 7,
    KVF_STREAM_CHECKPOINT_WINDOWS = 8,
    KVF_STREAM_CHECKPOINT_HALVES = 9
} kvf_stream_kind;

typedef struct kvf_stream {
    kvf_stream_kind kind;
    uint32_t number; /* of the layer or checkpoint; 0: of the session */
    uint32_t page_bytes;
    uint32_t first_page; /* the window's front fell off */
    uint32_t end_page;
    uint32_t full_pages;  /* those before it are not changed by later tokens (rings: all) */
    uint32_t part_pages;  /* the most pages of one part */
    uint32_t ring_slots;  /* token t writes slot t % ring_slots; 0: no ring */
    uint64_t n_items;     /* rows or tokens; 0 where it is plain bytes */
    kvf_format_id format; /* of rows, */
    uint32_t width;       /* 0: it is plain bytes */
    uint64_t first_row;   /* rows first_row .. n_items mean something, others may be anything */
    uint32_t layer_pages; /* pages of one layer after the other; 0: of one */
    uint32_t layer_first; /* page of the rows that is a layer's first */
} kvf_stream;

/* What decides a snapshot's streams. */
typedef struct kvf_snapshot_shape {
    const kvf_geometry *geometry;
    const kvf_profile *profile;
    uint32_t version;
    uint64_t n_tokens;
    uint32_t n_checkpoints;
    const kvf_snapshot_checkpoint *checkpoints;
} kvf_snapshot_shape;

/* The i-th stream in the order of the file (it may have no pages); false past the last. */
bool kvf_stream_at(const kvf_snapshot_shape *shape, uint64_t i, kvf_stream *stream);
/* The stream that a part of a checked index is of. */
void kvf_stream_of(const kvf_snapshot_shape *shape, const kvf_part *part, kvf_stream *stream);
/* Pages of a new part that begins at `page`. */
uint32_t kvf_stream_part_pages(const kvf_stream *stream, uint32_t page);
/* Rows *first .. *end of page `page` mean something. */
void kvf_stream_page_rows(const kvf_stream *stream, uint32_t page, uint32_t *first, uint32_t *end);
/* Whether `number` is that of a checkpoint. */
bool kvf_stream_of_checkpoint(uint32_t kind);
/* Streams are in the file in this order. */
uint64_t kvf_stream_order(uint32_t kind, uint32_t number);
/* For messages: "index rows of layer 3". */
typedef struct kvf_stream_title {
    char text[48];
} kvf_stream_title;
kvf_stream_title kvf_stream_title_of(uint32_t kind, uint32_t number);

/* Parts of a first save; bytes of its index; bytes of the whole file. */
uint32_t kvf_snapshot_n_parts(const kvf_snapshot_shape *shape);
uint64_t kvf_snapshot_index_bytes(uint32_t n_layers, uint32_t n_checkpoints, uint32_t n_parts);
uint64_t kvf_snapshot_file_bytes(const kvf_snapshot_shape *shape);

/* A session and those of its checkpoints that go into a file, or came from one. */
typedef struct kvf_snapshot_content {
    kvf_session *session;
    kvf_snapshot_shape shape;
    kvf_snapshot_checkpoint *entries; /* [shape.n_checkpoints] */
    kvf_checkpoint **checkpoints;     /* [shape.n_checkpoints] */
} kvf_snapshot_content;

/* What a save with that spacing writes (0: the default). KVF_OUT_OF_MEMORY. */
kvf_status kvf_snapshot_choose(const kvf_session *session, uint64_t spacing_tokens,
                               kvf_snapshot_content *content, kvf_error *error);
void kvf_snapshot_content_free(kvf_snapshot_content *content);

static inline uint64_t kvf_snapshot_padded(uint64_t bytes)
{
    return kvf_ceil_div(bytes, KVF_SNAPSHOT_PAGE_BYTES) * KVF_SNAPSHOT_PAGE_BYTES;
}

/* Where a stream lies in a session: rows in pages, or plain bytes. */
typedef struct kvf_stream_place {
    kvf_paged_rows *rows; /* that pages are put into, or NULL */
    kvf_page **pages;     /* of rows, from the stream's first on; NULL: plain bytes */
    kvf_page **page;      /* of the bytes; NULL where they are the host's own */
    void *memory;
    uint64_t bytes; /* that are there; the stream's pages go on with zeros */
    kvf_place place;
} kvf_stream_place;

kvf_stream_place kvf_stream_place_in(const kvf_snapshot_content *content, const kvf_stream *stream);

/* ---- zstd ------------------------------------------------------------------------ */

/* The most bytes that compressing can give; 0: this build has no zstd. */
size_t kvf_codec_bound(size_t bytes);
/* Returns the bytes written to out, 0 when it failed. */
size_t kvf_codec_compress(void *out, size_t capacity, const void *data, size_t bytes);
/* Whether data is what `bytes` bytes were compressed to; they are then in out. */
bool kvf_codec_decompress(void *out, size_t bytes, const void *data, size_t stored_bytes);

/* ---- Reading ----------------------------------------------------------------------- */

/* What a file says of itself, checked: nothing of it contradicts the format. */
typedef struct kvf_snapshot_index {
    kvf_snapshot_header header;
    kvf_geometry geometry;
    kvf_snapshot_checkpoint *checkpoints; /* [header.n_checkpoints], owned; .. */
    kvf_part *parts;                      /* .. [header.n_parts] in the same memory */
    uint64_t file_bytes;
    uint64_t live_bytes; /* headers, index, parts, with padding */
    bool in_both;        /* both header pages hold this header */
    uint32_t slot;       /* the page it was read from */
} kvf_snapshot_index;

/* Opens for reading or, where `writable`, for both. */
kvf_status kvf_snapshot_open_file(const kvf_io *io, const char *path, bool writable, int *file,
                                  kvf_error *error);
kvf_status kvf_snapshot_read_index(const kvf_io *io, int file, const char *path,
                                   kvf_snapshot_index *index, kvf_error *error);
void kvf_snapshot_free_index(kvf_snapshot_index *index);
kvf_snapshot_shape kvf_snapshot_shape_of(const kvf_snapshot_index *index);

/* A file in memory. Parts are checked once; pages refer to it (cache/page.h). */
typedef struct kvf_snapshot_map {
    kvf_page_owner owner;
    const kvf_io *io;
    uint8_t *view;
    size_t view_bytes;
    kvf_snapshot_index index;
    uint32_t *by_offset; /* [n_parts] numbers of parts, ascending by offset */
    bool *checked;       /* [n_parts] */
    char path[];
} kvf_snapshot_map;

/*
 * Opens the file, reads its index and maps it; `verify` checks all parts. Give up with
 * kvf_page_owner_release(&map->owner).
 */
kvf_status kvf_snapshot_open(const kvf_io *io, const char *path, bool verify,
                             kvf_snapshot_map **map, kvf_error *error);
/*
 * The content of part i, which has `bytes` bytes: checked, and where it is compressed
 * in `unpacked` (room for KVF_SNAPSHOT_PART_BYTES).
 */
kvf_status kvf_snapshot_part_data(kvf_snapshot_map *map, uint32_t i, uint64_t bytes,
                                  uint8_t *unpacked, const uint8_t **data, kvf_error *error);
/*
 * The token ids in a part of them. A file whose checksums are right can still have been made by
 * somebody else: KVF_FILE_FORMAT names the first that is no token.
 */
kvf_status kvf_snapshot_check_tokens(const kvf_snapshot_map *map, const kvf_part *part,
                                     const uint8_t *data, kvf_error *error);

/* ---- What is written ------------------------------------------------------------------- */

/*
 * A session as it was when its save began: its pages, kept, and copies of all else. The session may
 * go on and end. Belongs to the device's thread, but for what is no page and no device, which does
 * not change.
 */
typedef struct kvf_source_stream kvf_source_stream;
typedef struct kvf_snapshot_source {
    kvf_device *device;
    kvf_geometry geometry;
    kvf_snapshot_shape shape; /* of geometry and entries here */
    kvf_snapshot_checkpoint *entries;
    kvf_snapshot_layer *layers; /* [n_layers] */
    kvf_snapshot_header header; /* all of it that does not depend on the file */
    float *logits;              /* [vocab] */
    kvf_source_stream *streams; /* in the order of the file */
    kvf_page **pages;           /* [n_pages] of all streams */
    uint64_t n_pages;           /* 0: let go */
} kvf_snapshot_source;

/* The session is in no open batch. KVF_OUT_OF_MEMORY: nothing is held then. */
kvf_status kvf_source_take(kvf_session *session, uint64_t spacing_tokens,
                           kvf_snapshot_source *source, kvf_error *error);
/* Nothing can be read from now on. */
void kvf_source_let_go(kvf_snapshot_source *source);
void kvf_source_close(kvf_snapshot_source *source);
/*
 * Queues page i of that stream, the number-th, into out, which is there after a wait. What is
 * mapped is checked first.
 */
kvf_status kvf_source_read_page(const kvf_snapshot_source *source, uint64_t number,
                                const kvf_stream *stream, uint32_t i, uint8_t *out,
                                kvf_error *error);

/* ---- From the device to who writes -------------------------------------------------------- */

/* Two buffers of the largest part, which small parts share, as many as that. */
enum { KVF_FEED_BUFFERS = 2, KVF_FEED_PARTS = 128 };
_Static_assert(KVF_SAVE_STAGING_BYTES == KVF_FEED_BUFFERS * KVF_SNAPSHOT_PART_BYTES,
               "what kvfold_files.h says that a save takes");

typedef struct kvf_wanted {
    uint64_t number; /* of the stream */
    kvf_stream stream;
    kvf_part *part; /* who writes knows it by that */
    uint32_t first_page;
    uint32_t n_pages;
    uint32_t n_read; /* pages: reads of them are queued */
    bool is_there;
    uint32_t buffer; /* which it lies in */
    uint8_t *data;   /* with room up to the next multiple of a page of the file */
} kvf_wanted;

typedef struct kvf_feed {
    const kvf_snapshot_source *source;
    bool is_beside;               /* who writes is another thread than the device's */
    void (*wants)(void *context); /* NULL: nobody is told */
    void *wants_context;
    /* Who writes: */
    uint32_t n_buffers;
    uint8_t
        *buffers[KVF_FEED_BUFFERS]; /* [buffer_bytes]; of the save, not of an attempt to write */
    size_t buffer_bytes;
    uint32_t n_in[KVF_FEED_BUFFERS]; /* parts that are wanted or being written */
    uint32_t filling;                /* the buffer where the next one goes, .. */
    size_t filled_bytes;             /* .. behind these */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* Under the mutex: */
    kvf_wanted wanted[KVF_FEED_PARTS]; /* a ring, the oldest at `first` */
    uint32_t first;
    uint32_t n_wanted;
    bool is_queued; /* reads that the device was not waited for */
    bool is_stopped;
    kvf_error failure; /* of reading */
} kvf_feed;

void kvf_feed_open(kvf_feed *feed, const kvf_snapshot_source *source, bool is_beside);
void kvf_feed_close(kvf_feed *feed);
/* Who writes: nothing is wanted any more; the largest part, and all. KVF_OUT_OF_MEMORY. */
kvf_status kvf_feed_begin(kvf_feed *feed, size_t largest_part_bytes, uint64_t all_bytes,
                          kvf_error *error);
/* Wants one more; false: there is no place for it before one that was taken is released. */
bool kvf_feed_want(kvf_feed *feed, uint64_t number, const kvf_stream *stream, kvf_part *part);
/*
 * Waits for the one that was wanted first. What was wrong with its pages, or with the device, or
 * KVF_FILE_IO: stopped.
 */
kvf_status kvf_feed_take(kvf_feed *feed, kvf_wanted *taken, kvf_error *error);
/* It was written. */
void kvf_feed_release(kvf_feed *feed, const kvf_wanted *taken);
/* Who has the device: as kvf_save_read, kvf_save_hand. */
uint64_t kvf_feed_read(kvf_feed *feed, uint64_t max_bytes);
void kvf_feed_hand(kvf_feed *feed);
/* Nothing more is read; no read is under way. */
void kvf_feed_stop(kvf_feed *feed);

/* ---- Writing ------------------------------------------------------------------------ */

/* A file being written: bytes go behind each other from end_bytes on. */
typedef struct kvf_snapshot_writer {
    const kvf_io *io;
    const char *path; /* for messages */
    int file;
    bool compress;
    bool no_room; /* a write failed for want of it */
    uint64_t end_bytes;
    uint64_t written_bytes;
    uint8_t *packed; /* where compressing writes to */
    size_t packed_bytes;
} kvf_snapshot_writer;

kvf_status kvf_snapshot_writer_open(kvf_snapshot_writer *writer, size_t largest_part_bytes,
                                    kvf_error *error);
void kvf_snapshot_writer_close(kvf_snapshot_writer *writer);
/*
 * Writes a part, whose bytes are in `data` with room up to the next multiple of a page; sets
 * offset, bytes, codec, checksum.
 */
kvf_status kvf_snapshot_write_part(kvf_snapshot_writer *writer, uint8_t *data, size_t bytes,
                                   kvf_part *part, kvf_error *error);
/* Writes the index, then fills in what is not there of the header, its checksum included. */
kvf_status kvf_snapshot_write_index(kvf_snapshot_writer *writer, const kvf_snapshot_source *source,
                                    const kvf_part *parts, kvf_snapshot_header *header,
                                    kvf_error *error);
kvf_status kvf_snapshot_write_header(kvf_snapshot_writer *writer, const kvf_snapshot_header *header,
                                     uint32_t slot, kvf_error *error);
kvf_status kvf_snapshot_sync(kvf_snapshot_writer *writer, kvf_error *error);

/* ---- Saving and loading ------------------------------------------------------------- */

struct kvf_save {
    kvf_snapshot_source source;
    kvf_feed feed;
    const kvf_io *io;
    kvf_save_options options;
    kvf_saved before; /* what the file that is added to holds; not known: nothing is added */
    bool was_known;   /* before it was begun to write */
    kvf_saved after;  /* what the file holds; not known: the save is not done */
    bool follows;     /* a link at the path */
    char path[];
};

/*
 * save.c: writes all of it to a path, which is no link (one there is replaced, as any other file);
 * sets `after`, or not, and `before` where the file may be anything. On any thread.
 */
kvf_status kvf_save_to_path(kvf_save *save, const char *path, kvf_save_report *report,
                            kvf_error *error);

/* As the public functions, on any disk; a link at `path` is replaced, as any other file. */
kvf_status kvf_save_begin_on(kvf_session *session, const char *path,
                             const kvf_save_options *options, bool is_beside, const kvf_io *io,
                             kvf_save **save, kvf_error *error);
kvf_status kvf_session_save_to(kvf_session *session, const char *path,
                               const kvf_save_options *options, kvf_save_report *report,
                               const kvf_io *io, kvf_error *error);
kvf_status kvf_load_open_on(const char *path, const kvf_load_options *options, const kvf_io *io,
                            kvf_load **load, kvf_error *error);
kvf_status kvf_session_load_from(kvf_device *device, const char *path,
                                 const kvf_load_options *options, kvf_session **session,
                                 const kvf_io *io, kvf_error *error);
/* The same of what a file says of itself. */
kvf_status kvf_snapshot_info_from(const char *path, kvf_snapshot_info *info, const kvf_io *io,
                                  kvf_error *error);
kvf_status kvf_snapshot_checkpoints_from(const char *path, uint64_t *n_tokens, uint32_t capacity,
                                         const kvf_io *io, kvf_error *error);
kvf_status kvf_snapshot_tokens_from(const char *path, int32_t *tokens, uint64_t capacity,
                                    const kvf_io *io, kvf_error *error);
kvf_status kvf_snapshot_verify_on(const char *path, const kvf_io *io, kvf_error *error);

#endif

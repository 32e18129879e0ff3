#include "format/format.h"

#include "shared/layout.h"

/* layout.h stands alone, so that GPU sources can include it; here it meets the public header. */
static_assert(KVF_FP8_NOPE_VALUES == KVF_NOPE_WIDTH, "layout.h and kvfold.h: nope values");
static_assert(KVF_FP8_ROPE_VALUES == KVF_ROPE_WIDTH, "layout.h and kvfold.h: rope values");
static_assert(KVF_NOPE_WIDTH + KVF_ROPE_WIDTH == KVF_ROW_WIDTH, "a row is nope and rope");
static_assert(KVF_FP4_VALUES == KVF_INDEX_WIDTH, "layout.h and kvfold.h: index values");

/* Declares every format's table .. */
#define KVF_FORMAT(id, symbol) extern const kvf_format symbol;
#include "format/formats.def"
#undef KVF_FORMAT

/* .. and lists them by id. */
static const kvf_format *const formats[KVF_FORMAT_COUNT] = {
#define KVF_FORMAT(id, symbol) [id] = &symbol,
#include "format/formats.def"
#undef KVF_FORMAT
};

const kvf_format *kvf_format_get(kvf_format_id id)
{
    /* Cast: an id from a caller may be any int; negative ones become large. */
    return (unsigned)id < KVF_FORMAT_COUNT ? formats[id] : NULL;
}

const char *kvf_format_name(kvf_format_id format)
{
    const kvf_format *found = kvf_format_get(format);
    return found ? found->name : NULL;
}

size_t kvf_format_row_bytes(kvf_format_id format, uint32_t width)
{
    const kvf_format *found = kvf_format_get(format);
    return found ? found->row_bytes(width) : 0;
}

size_t kvf_format_page_bytes(kvf_format_id format, uint32_t width, uint32_t page_rows)
{
    const size_t row_bytes = kvf_format_row_bytes(format, width);
    if (row_bytes == 0)
        return 0;
    /* No format pads a page by more than the multiple; a page of no rows has 0 bytes. */
    if (page_rows > (SIZE_MAX - KVF_FP8_PAGE_MULTIPLE_BYTES) / row_bytes)
        return 0;
    return kvf_format_get(format)->page_bytes(width, page_rows);
}

#include "cli/inspect_check.h"

#include <stdlib.h>

#include "checksum.h"
#include "cli/message.h"
#include "cli/progress.h"
#include "cli/sha256.h"
#include "model/tensor_check.h"

/*
 * Files are read in windows, which are asked for one ahead: large enough for a disk to be
 * busy with and for threads to share, little beside any machine's memory.
 */
static const uint64_t window_bytes = UINT64_C(64) << 20;

/* What a window has of a tensor. */
typedef struct tensor_piece {
    const kvf_tensor *tensor;
    uint64_t begin; /* bytes of the tensor */
    uint64_t end;
    kvf_checksum_state *state; /* of a tensor that is in several windows; NULL: it is all here */
} tensor_piece;

typedef struct file_pass {
    kvf_tensor_set *files;
    kvf_device *device;
    cli_check *check;
    const kvf_tensor *first_tensor; /* its place is counted from here */
    const kvf_tensor **tensors;     /* of one file, in order of their data */
    size_t n_tensors;
    size_t at;            /* the first one that is not read to its end */
    tensor_piece *pieces; /* of one window */
    size_t n_pieces;
    kvf_checksum_state states[2]; /* of the tensor that came from the last window, and of the
                                     one that goes on into the next */
    int state_at;
    cli_sha256 *hash; /* of the file; NULL: not asked for */
    const unsigned char *window;
    uint64_t window_size;
    cli_progress progress;
    uint64_t done_bytes;
} file_pass;

/* ---- One window --------------------------------------------------------------------- */

static uint64_t up(uint64_t bytes, uint64_t block_bytes)
{
    return (bytes + block_bytes - 1) / block_bytes;
}

/* Blocks belong to the window that they begin in, so that each is looked at once. */
static void read_piece(const file_pass *pass, const tensor_piece *piece)
{
    const kvf_tensor *tensor = piece->tensor;
    const size_t place = (size_t)(tensor - pass->first_tensor);
    const uint64_t block_bytes = kvf_stored_info_of(tensor->type)->block_bytes;
    const uint64_t first = up(piece->begin, block_bytes);
    const uint64_t end = up(piece->end, block_bytes);
    const unsigned char *data = (const unsigned char *)tensor->data + piece->begin;
    pass->check->n_faults[place] += kvf_tensor_check_count(tensor, first, end - first);
    if (!piece->state) {
        pass->check->sums[place] = kvf_checksum(data, piece->end - piece->begin);
        return;
    }
    kvf_checksum_add(piece->state, data, piece->end - piece->begin);
    if (piece->end == tensor->bytes)
        pass->check->sums[place] = kvf_checksum_of(piece->state);
}

/* Item 0 hashes the whole window where that is asked for; the others are tensors. */
static void read_items(void *context, size_t first, size_t end, uint32_t thread)
{
    const file_pass *pass = context;
    const size_t n_hashes = pass->hash != NULL;
    (void)thread;
    for (size_t i = first; i < end; i++) {
        if (i < n_hashes)
            cli_sha256_add(pass->hash, pass->window, pass->window_size);
        else
            read_piece(pass, &pass->pieces[i - n_hashes]);
    }
}

/* Tensors do not overlap: one at most goes on from a window into the next. */
static void find_pieces(file_pass *pass)
{
    const unsigned char *window_end = pass->window + pass->window_size;
    pass->n_pieces = 0;
    for (; pass->at < pass->n_tensors; pass->at++) {
        const kvf_tensor *tensor = pass->tensors[pass->at];
        const unsigned char *data = tensor->data;
        if (data >= window_end)
            return;
        const bool goes_on = tensor->bytes > (uint64_t)(window_end - data);
        tensor_piece *piece = &pass->pieces[pass->n_pieces++];
        piece->tensor = tensor;
        piece->begin = data < pass->window ? (uint64_t)(pass->window - data) : 0;
        piece->end = goes_on ? (uint64_t)(window_end - data) : tensor->bytes;
        piece->state = NULL;
        if (piece->begin > 0) {
            piece->state = &pass->states[pass->state_at];
        } else if (goes_on) {
            pass->state_at = !pass->state_at;
            piece->state = &pass->states[pass->state_at];
            kvf_checksum_begin(piece->state);
        }
        if (goes_on)
            return;
    }
}

static void read_window(file_pass *pass, const kvf_file *map, uint64_t begin)
{
    const uint64_t left = map->bytes - begin;
    pass->window = (const unsigned char *)map->data + begin;
    pass->window_size = left < window_bytes ? left : window_bytes;
    const uint64_t after = left - pass->window_size;
    kvf_file_advise(pass->window + pass->window_size, after < window_bytes ? after : window_bytes,
                    KVF_ADVICE_WILL_NEED);
    pass->n_pieces = 0;
    if (pass->check->n_faults)
        find_pieces(pass);
    kvf_device_run(pass->device, (pass->hash != NULL) + pass->n_pieces, 1, read_items, pass);
    pass->done_bytes += pass->window_size;
    cli_progress_update(&pass->progress, pass->done_bytes);
}

/* ---- One file ------------------------------------------------------------------------- */

static int compare_places(const void *a, const void *b)
{
    const kvf_tensor *x = *(const kvf_tensor *const *)a;
    const kvf_tensor *y = *(const kvf_tensor *const *)b;
    const uintptr_t x_begin = (uintptr_t)x->data;
    const uintptr_t y_begin = (uintptr_t)y->data;
    if (x_begin != y_begin)
        return x_begin < y_begin ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty one comes first */
}

static void list_tensors(file_pass *pass, uint32_t file)
{
    const kvf_tensor *tensor;
    pass->n_tensors = 0;
    pass->at = 0;
    for (uint32_t i = 0; (tensor = kvf_tensor_set_at(pass->files, i)); i++)
        if (tensor->file_index == file)
            pass->tensors[pass->n_tensors++] = tensor;
    qsort(pass->tensors, pass->n_tensors, sizeof *pass->tensors, compare_places);
}

static int read_file(file_pass *pass, uint32_t file)
{
    const kvf_file *map = &kvf_tensor_set_file(pass->files, file)->map;
    if (pass->check->sha256) {
        pass->hash = cli_sha256_start();
        if (!pass->hash)
            return cli_error("inspect", "out of memory for a hash");
    }
    list_tensors(pass, file);
    kvf_file_advise(map->data, map->bytes, KVF_ADVICE_SEQUENTIAL);
    for (uint64_t begin = 0; begin < map->bytes; begin += window_bytes)
        read_window(pass, map, begin);
    kvf_file_advise(map->data, map->bytes, KVF_ADVICE_NORMAL);
    if (pass->hash)
        cli_sha256_end(pass->hash, pass->check->sha256[file]);
    pass->hash = NULL;
    return CLI_EXIT_OK;
}

/* ---- All of them ------------------------------------------------------------------------ */

static uint32_t count_files(const kvf_tensor_set *files)
{
    uint32_t n = 0;
    while (kvf_tensor_set_file(files, n))
        n++;
    return n;
}

static size_t count_tensors(const kvf_tensor_set *files)
{
    uint32_t n = 0;
    while (kvf_tensor_set_at(files, n))
        n++;
    return n;
}

static bool make_room(file_pass *pass, bool values, bool sha256, uint32_t n_files)
{
    const size_t n_tensors = count_tensors(pass->files);
    cli_check *check = pass->check;
    pass->tensors = malloc((n_tensors + 1) * sizeof *pass->tensors);
    pass->pieces = malloc((n_tensors + 1) * sizeof *pass->pieces);
    if (values) {
        check->n_faults = calloc(n_tensors + 1, sizeof *check->n_faults);
        check->sums = calloc(n_tensors + 1, sizeof *check->sums);
    }
    if (sha256)
        check->sha256 = calloc(n_files + 1, sizeof *check->sha256);
    return pass->tensors && pass->pieces && (!values || (check->n_faults && check->sums)) &&
           (!sha256 || check->sha256);
}

int cli_check_run(kvf_tensor_set *files, kvf_device *device, bool values, bool sha256,
                  cli_check *check)
{
    const uint32_t n_files = count_files(files);
    kvf_error error;
    *check = (cli_check){NULL, NULL, NULL};
    file_pass pass = {.files = files,
                      .device = device,
                      .check = check,
                      .first_tensor = kvf_tensor_set_at(files, 0)};
    int status = CLI_EXIT_OK;
    if (!make_room(&pass, values, sha256, n_files))
        status = cli_error("inspect", "out of memory to check the tensors");
    cli_progress_start_bytes(&pass.progress, sha256 && !values ? "sha256" : "check",
                             kvf_tensor_set_mapped_bytes(files));
    for (uint32_t i = 0; i < n_files && status == CLI_EXIT_OK; i++)
        status = read_file(&pass, i);
    cli_progress_finish(&pass.progress);
    if (status == CLI_EXIT_OK && (kvf_tensor_set_check_lost(files, &error) != KVF_OK ||
                                  kvf_tensor_set_check_unchanged(files, &error) != KVF_OK))
        status = cli_error("inspect", "%s", error.message);
    free(pass.tensors);
    free(pass.pieces);
    return status;
}

void cli_check_free(cli_check *check)
{
    free(check->n_faults);
    free(check->sums);
    free(check->sha256);
    *check = (cli_check){NULL, NULL, NULL};
}

#include "cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/message.h"
#include "engine/amounts.h"
#include "engine/limits.h"

enum { READ_STEP_BYTES = 64 * 1024 };

/* ---- A file that is read piece by piece -------------------------------------------------- */

static int look_at(cli_source *source)
{
    struct stat info;
    if (fstat(source->file, &info) != 0)
        return cli_error(source->command, "cannot read '%s': %s", source->path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        return cli_error(source->command, "cannot read '%s': it is a folder; give a file",
                         source->path);
    source->regular = S_ISREG(info.st_mode);
    source->device = S_ISCHR(info.st_mode) && !isatty(source->file);
    if (!source->regular)
        return CLI_EXIT_OK;
    /* Standard input may have been read before. */
    const off_t at = lseek(source->file, 0, SEEK_CUR);
    source->size_bytes = (uint64_t)info.st_size;
    source->left_bytes =
        at > 0 ? (at < info.st_size ? (uint64_t)(info.st_size - at) : 0) : source->size_bytes;
    return CLI_EXIT_OK;
}

int cli_source_open(const char *command, const char *path, cli_source *source)
{
    *source = (cli_source){.command = command, .path = path, .file = -1};
    source->is_stdin = strcmp(path, "-") == 0;
    source->file = source->is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    /* A pipe that nobody writes to makes open wait. */
    while (source->file < 0 && errno == EINTR && !cli_interrupted())
        source->file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (source->file < 0 && errno == EINTR)
        return CLI_EXIT_INTERRUPTED;
    if (source->file < 0)
        return cli_error(command, "cannot open '%s': %s", path, strerror(errno));
    return look_at(source);
}

int cli_source_check(const cli_source *source)
{
    struct stat info;
    if (!source->regular || fstat(source->file, &info) != 0 ||
        (uint64_t)info.st_size == source->size_bytes)
        return CLI_EXIT_OK;
    return cli_error(source->command, "'%s' changed while it was read: %llu bytes became %llu",
                     source->path, (unsigned long long)source->size_bytes,
                     (unsigned long long)info.st_size);
}

int cli_source_read(cli_source *source, void *data, size_t most, size_t *n)
{
    *n = 0;
    while (*n < most) {
        const ssize_t got = read(source->file, (char *)data + *n, most - *n);
        if (got > 0) {
            *n += (size_t)got;
        } else if (got == 0) {
            break;
        } else if ((errno == EINTR || errno == EAGAIN) && cli_interrupted()) {
            return CLI_EXIT_INTERRUPTED;
        } else if (errno == EAGAIN) { /* whoever opened it did not want to wait; a text does */
            if (!cli_interrupt_wait_readable(source->file))
                return CLI_EXIT_INTERRUPTED;
        } else if (errno != EINTR) {
            return cli_error(source->command, "cannot read '%s': %s", source->path,
                             strerror(errno));
        }
    }
    return cli_source_check(source);
}

int cli_source_rewind(cli_source *source)
{
    const uint64_t start = source->size_bytes - source->left_bytes;
    if (lseek(source->file, (off_t)start, SEEK_SET) == (off_t)start)
        return CLI_EXIT_OK;
    return cli_error(source->command, "cannot read '%s' again: %s", source->path, strerror(errno));
}

void cli_source_close(cli_source *source)
{
    if (source->path && !source->is_stdin && source->file >= 0)
        close(source->file);
    *source = (cli_source){.file = -1};
}

/* ---- A text that is in memory as a whole --------------------------------------------------- */

/* Whether so many bytes more can be had: the system may end a process that takes them anyway. */
static int check_room(const cli_source *source, const cli_text *text, size_t more_bytes)
{
    char held[KVF_NUMBER_BYTES];
    char left[KVF_NUMBER_BYTES];
    const uint64_t left_bytes = more_bytes > READ_STEP_BYTES ? kvf_limits_left() : UINT64_MAX;
    if (more_bytes <= left_bytes)
        return CLI_EXIT_OK;
    return cli_error(
        source->command, "no memory for the text of '%s': after its first %s, %s are left",
        source->path, kvf_show_bytes(text->bytes, held), kvf_show_bytes(left_bytes, left));
}

/* Reads until there are more than most_bytes, or no more. */
static int read_up_to(cli_source *source, size_t most_bytes, cli_text *text)
{
    size_t capacity = 0;
    size_t got;
    do {
        size_t wanted = capacity ? capacity : READ_STEP_BYTES;
        if (wanted > most_bytes - text->bytes + 1)
            wanted = most_bytes - text->bytes + 1;
        int status = check_room(source, text, wanted);
        if (status != CLI_EXIT_OK)
            return status;
        char *larger = realloc(text->data, text->bytes + wanted + 1);
        if (!larger)
            return cli_error(source->command, "out of memory for the text of '%s'", source->path);
        text->data = larger;
        status = cli_source_read(source, text->data + text->bytes, wanted, &got);
        if (status != CLI_EXIT_OK)
            return status;
        text->bytes += got;
        capacity = text->bytes;
        text->longer = text->bytes > most_bytes;
        if (got < wanted)
            break;
    } while (!text->longer);
    if (text->longer)
        text->bytes = most_bytes;
    text->data[text->bytes] = '\0';
    return CLI_EXIT_OK;
}

int cli_text_read(const char *command, const char *path, size_t most_bytes, bool whole,
                  cli_text *text)
{
    cli_source source;
    memset(text, 0, sizeof *text);
    int status = cli_source_open(command, path, &source);
    if (status == CLI_EXIT_OK && whole && source.regular && source.left_bytes > most_bytes)
        text->longer = true;
    else if (status == CLI_EXIT_OK)
        status = read_up_to(&source, most_bytes, text);
    cli_source_close(&source);
    if (status != CLI_EXIT_OK)
        cli_text_free(text);
    return status;
}

int cli_text_copy(const char *command, const void *data, size_t bytes, cli_text *text)
{
    *text = (cli_text){malloc(bytes + 1), bytes, false};
    if (!text->data)
        return cli_error(command, "out of memory for %zu bytes of text", bytes);
    memcpy(text->data, data, bytes);
    text->data[bytes] = '\0';
    return CLI_EXIT_OK;
}

void cli_text_free(cli_text *text)
{
    free(text->data);
    memset(text, 0, sizeof *text);
}

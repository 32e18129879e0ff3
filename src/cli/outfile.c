#include "cli/outfile.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/message.h"

static void forget(cli_outfile *file)
{
    cli_interrupt_keep(file->temporary_path);
    free(file->path);
    free(file->temporary_path);
    memset(file, 0, sizeof *file);
}

/* Opens path.XXXXXX with the permissions that fopen would give. */
static FILE *open_temporary(char *temporary_path)
{
    const int descriptor = mkstemp(temporary_path);
    if (descriptor < 0)
        return NULL;
    const mode_t mask = umask(0);
    umask(mask);
    FILE *stream = fchmod(descriptor, 0666 & ~mask) == 0 ? fdopen(descriptor, "wb") : NULL;
    if (!stream) {
        const int reason = errno;
        close(descriptor);
        unlink(temporary_path);
        errno = reason;
    }
    return stream;
}

int cli_outfile_open(const char *command, const char *path, cli_outfile *file)
{
    static const char pattern[] = ".XXXXXX";
    memset(file, 0, sizeof *file);
    struct stat existing;
    /* A rename would replace a device or a folder's name instead of writing to it. */
    if (stat(path, &existing) == 0 && !S_ISREG(existing.st_mode))
        return cli_error(command, "cannot write '%s': it is not a regular file", path);
    const size_t path_bytes = strlen(path) + 1;
    file->path = malloc(path_bytes);
    file->temporary_path = malloc(path_bytes + sizeof pattern);
    if (!file->path || !file->temporary_path) {
        forget(file);
        return cli_error(command, "out of memory for the name of '%s'", path);
    }
    memcpy(file->path, path, path_bytes);
    snprintf(file->temporary_path, path_bytes + sizeof pattern, "%s%s", path, pattern);
    file->stream = open_temporary(file->temporary_path);
    if (!file->stream) {
        const int reason = errno;
        forget(file);
        return cli_error(command, "cannot write '%s': %s", path, strerror(reason));
    }
    cli_interrupt_remove(file->temporary_path);
    return CLI_EXIT_OK;
}

int cli_outfile_commit(const char *command, cli_outfile *file)
{
    int status = CLI_EXIT_OK;
    errno = 0;
    const bool written = !ferror(file->stream) && fflush(file->stream) == 0;
    const bool closed = fclose(file->stream) == 0;
    if (!written || !closed || rename(file->temporary_path, file->path) != 0) {
        status =
            cli_error(command, "cannot write '%s': %s", file->path, strerror(errno ? errno : EIO));
        unlink(file->temporary_path);
    }
    forget(file);
    return status;
}

void cli_outfile_discard(cli_outfile *file)
{
    if (!file->stream)
        return;
    fclose(file->stream);
    unlink(file->temporary_path);
    forget(file);
}

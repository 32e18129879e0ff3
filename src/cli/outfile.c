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

/* Opens path.XXXXXX with the permissions that fopen would give, or those of what is replaced. */
static FILE *open_temporary(char *temporary_path, const struct stat *replaced)
{
    const int descriptor = mkstemp(temporary_path);
    if (descriptor < 0)
        return NULL;
    const mode_t mask = umask(0);
    umask(mask);
    const mode_t mode = replaced ? replaced->st_mode & 0777 : 0666 & ~mask;
    FILE *stream = fchmod(descriptor, mode) == 0 ? fdopen(descriptor, "wb") : NULL;
    if (!stream) {
        const int reason = errno;
        close(descriptor);
        unlink(temporary_path);
        errno = reason;
    }
    return stream;
}

/* Where a path leads: a rename onto a link would replace the link. *exists: there is a file. */
static int find_target(const char *command, const char *path, char **target, bool *exists,
                       struct stat *existing)
{
    struct stat link;
    *target = NULL;
    if (strcmp(path, "-") == 0)
        return cli_error(command, "'-' is no name for a file that is to be written");
    *exists = stat(path, existing) == 0;
    if (!*exists && lstat(path, &link) == 0)
        return cli_error(command, "cannot write '%s': it is a link that leads nowhere", path);
    /* A rename would replace a device or a folder's name instead of writing to it. */
    if (*exists && !S_ISREG(existing->st_mode))
        return cli_error(command, "cannot write '%s': it is not a regular file", path);
    *target = *exists ? realpath(path, NULL) : strdup(path);
    if (!*target)
        return cli_error(command, "cannot write '%s': %s", path, strerror(errno));
    return CLI_EXIT_OK;
}

int cli_outfile_open(const char *command, const char *path, cli_outfile *file)
{
    static const char pattern[] = ".XXXXXX";
    struct stat existing;
    bool exists = false;
    memset(file, 0, sizeof *file);
    const int status = find_target(command, path, &file->path, &exists, &existing);
    if (status != CLI_EXIT_OK)
        return status;
    const size_t path_bytes = strlen(file->path) + 1;
    file->temporary_path = malloc(path_bytes + sizeof pattern);
    if (!file->temporary_path) {
        forget(file);
        return cli_error(command, "out of memory for the name of '%s'", path);
    }
    snprintf(file->temporary_path, path_bytes + sizeof pattern, "%s%s", file->path, pattern);
    file->stream = open_temporary(file->temporary_path, exists ? &existing : NULL);
    if (!file->stream) {
        const int reason = errno;
        forget(file);
        return cli_error(command, "cannot write '%s': %s", path, strerror(reason));
    }
    cli_interrupt_remove(file->temporary_path);
    return CLI_EXIT_OK;
}

int cli_outfile_try(const char *command, const char *path)
{
    cli_outfile file;
    const int status = cli_outfile_open(command, path, &file);
    cli_outfile_discard(&file);
    return status;
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

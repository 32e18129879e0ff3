#include "cli/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* One process has one set of them. */
static bool was_closed[3];

/* The lowest free descriptor, which is the closed one when those below it are open. */
static bool occupy(int descriptor)
{
    /* The direction that its users do not want, so that they see an error. Messages may vanish. */
    const int flags = descriptor == STDOUT_FILENO ? O_RDONLY : O_WRONLY;
    int got = open("/dev/null", flags);
    if (got < 0)
        got = open("/", O_RDONLY | O_DIRECTORY); /* a system without devices */
    return got == descriptor;
}

static void set_blocking(int descriptor)
{
    const int flags = fcntl(descriptor, F_GETFL);
    if (flags >= 0 && flags & O_NONBLOCK)
        fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
}

bool cli_streams_open(void)
{
    for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; descriptor++) {
        was_closed[descriptor] = fcntl(descriptor, F_GETFD) < 0 && errno == EBADF;
        if (was_closed[descriptor] && !occupy(descriptor))
            return false;
        if (!was_closed[descriptor] && descriptor != STDIN_FILENO)
            set_blocking(descriptor);
    }
    return true;
}

bool cli_stream_was_closed(int descriptor)
{
    return was_closed[descriptor];
}

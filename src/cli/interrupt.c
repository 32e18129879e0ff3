#include "cli/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* A signal handler can reach nothing else than objects of static storage. */
static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t leaving;

/*
 * Every signal puts a byte into this pipe, so that a wait for input sees one that
 * came just before it, and one that another thread received. -1: no pipe.
 */
static int wake_pipe[2] = {-1, -1};

static void on_interrupt(int signal_number)
{
    const int saved_errno = errno;
    if (signal_number != SIGINT) {
        leaving = 1;
        signal(SIGTERM, SIG_DFL); /* asked again: at once */
        signal(SIGHUP, SIG_DFL);
    }
    interrupted = 1;
    /* A full pipe wakes the wait as well, so a failed write loses nothing. */
    if (wake_pipe[1] < 0 || write(wake_pipe[1], "!", 1) <= 0)
        errno = saved_errno;
}

static void catch_signal(int signal_number)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt; /* sa_flags without SA_RESTART: reads return EINTR */
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

void cli_interrupt_catch(void)
{
    if (pipe(wake_pipe) != 0)
        wake_pipe[0] = wake_pipe[1] = -1;
    for (int i = 0; i < 2 && wake_pipe[i] >= 0; i++) {
        fcntl(wake_pipe[i], F_SETFL, O_NONBLOCK);
        fcntl(wake_pipe[i], F_SETFD, FD_CLOEXEC);
    }
    catch_signal(SIGINT);
    signal(SIGXFSZ, SIG_IGN);
}

void cli_interrupt_save_first(void)
{
    struct sigaction before;
    catch_signal(SIGTERM);
    /* nohup ignores it, and means that. */
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        catch_signal(SIGHUP);
    signal(SIGPIPE, SIG_IGN);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

bool cli_leaving(void)
{
    return leaving != 0;
}

bool cli_interrupt_wait_readable(int descriptor)
{
    struct pollfd waits[2] = {{descriptor, POLLIN, 0}, {wake_pipe[0], POLLIN, 0}};
    /* poll ignores a descriptor of -1; anything but a signal is left to the read to report. */
    while (!interrupted && poll(waits, 2, -1) < 0 && errno == EINTR)
        continue;
    return !interrupted;
}

void cli_interrupt_clear(void)
{
    char bytes[64];
    while (wake_pipe[0] >= 0 && read(wake_pipe[0], bytes, sizeof bytes) > 0)
        continue;
    interrupted = leaving;
}

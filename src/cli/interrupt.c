#include "cli/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "cli/message.h"

/* A signal handler can reach nothing else than objects of static storage. */
static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t leaving;
static volatile sig_atomic_t
    ends_at_once;                        /* SIGINT: it came before, or nothing is to be finished */
static volatile sig_atomic_t terminated; /* SIGTERM came before */
static volatile sig_atomic_t on_terminal;

/* At a time there are a lock, a save that is not complete, and two outputs. */
enum { MAX_FILES = 4 };
static const char *volatile files[MAX_FILES];

/*
 * Every signal puts a byte into this pipe, so that a wait for input sees one that
 * came just before it, and one that another thread received. -1: no pipe.
 */
static int wake_pipe[2] = {-1, -1};

/* ---- In handlers: system calls that are safe there, and no others ------------------------- */

/* A line to stderr, below what stands on the terminal's line. */
static void say(const char *line)
{
    if ((on_terminal && write(STDERR_FILENO, "\n", 1) < 0) ||
        write(STDERR_FILENO, line, strlen(line)) < 0)
        return; /* nobody is left to be told */
}

static void remove_files(void)
{
    for (int i = MAX_FILES - 1; i >= 0; i--) /* the lock, which is first, goes last */
        if (files[i])
            unlink(files[i]);
}

static void end_at_once(void)
{
    remove_files();
    say(interrupted ? "kvfold: ended at once by a second interrupt; what was not saved is lost\n"
                    : "kvfold: interrupted\n");
    _exit(CLI_EXIT_INTERRUPTED);
}

static void on_interrupt(int signal_number)
{
    const int saved_errno = errno;
    if ((signal_number == SIGINT && (ends_at_once || terminated)) ||
        (signal_number == SIGTERM && terminated))
        end_at_once();
    if (signal_number == SIGINT)
        ends_at_once = 1;
    else
        leaving = 1;
    if (signal_number == SIGTERM)
        terminated = 1;
    interrupted = 1;
    /* A full pipe wakes the wait as well, so a failed write loses nothing. */
    if (wake_pipe[1] < 0 || write(wake_pipe[1], "!", 1) <= 0)
        errno = saved_errno;
}

/* Of a signal that ends the process as it would without this handler, which is reset. */
static void on_end(int signal_number)
{
    remove_files();
    raise(signal_number); /* delivered when the handler returns */
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code != BUS_ADRERR) { /* no file's doing: it happens again, and ends the process */
        signal(signal_number, SIG_DFL);
        return;
    }
    remove_files();
    say("kvfold: a file that is in use cannot be read any more: it was shortened, or its disk "
        "failed\n");
    _exit(CLI_EXIT_BAD_INPUT);
}

/* ---- Outside of them ----------------------------------------------------------------------- */

static void catch_signal(int signal_number, void (*handler)(int), int flags)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags; /* without SA_RESTART: reads return EINTR */
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(signal_number, &action, NULL);
}

/* nohup ignores SIGHUP, and means that. */
static bool is_ignored(int signal_number)
{
    struct sigaction before;
    return sigaction(signal_number, NULL, &before) == 0 && before.sa_handler == SIG_IGN;
}

static void catch_bus_error(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

/*
 * What ends a process that does not know it: a service that stops, a terminal that closes, a
 * scheduler's warning, processor time that is used up.
 */
static const int ends[] = {SIGTERM, SIGHUP, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM, SIGQUIT, SIGPIPE};
enum { N_ENDS = sizeof ends / sizeof *ends };

void cli_interrupt_catch(bool at_once)
{
    if (pipe(wake_pipe) != 0)
        wake_pipe[0] = wake_pipe[1] = -1;
    for (int i = 0; i < 2 && wake_pipe[i] >= 0; i++) {
        fcntl(wake_pipe[i], F_SETFL, O_NONBLOCK);
        fcntl(wake_pipe[i], F_SETFD, FD_CLOEXEC);
    }
    on_terminal = isatty(STDERR_FILENO) == 1;
    ends_at_once = at_once;
    catch_signal(SIGINT, on_interrupt, 0);
    for (int i = 0; i < N_ENDS; i++)
        if (!is_ignored(ends[i]))
            catch_signal(ends[i], on_end, SA_RESETHAND);
    catch_bus_error();
    signal(SIGXFSZ, SIG_IGN);
}

void cli_interrupt_save_first(void)
{
    /* Ctrl-\ stays what ends at once. */
    for (int i = 0; i < N_ENDS; i++)
        if (ends[i] != SIGQUIT && (ends[i] == SIGTERM || !is_ignored(ends[i])))
            catch_signal(ends[i], on_interrupt, 0);
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
    ends_at_once = 0;
    interrupted = leaving;
}

void cli_interrupt_remove(const char *path)
{
    for (int i = 0; path && i < MAX_FILES; i++)
        if (!files[i]) {
            files[i] = path;
            return;
        }
}

void cli_interrupt_keep(const char *path)
{
    for (int i = 0; path && i < MAX_FILES; i++)
        if (files[i] == path)
            files[i] = NULL;
}

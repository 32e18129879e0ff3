#include "cli/lost_files.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

/* A process has one model; a few more are allowed for. */
enum { MAX_SETS = 4 };

/* A signal handler can reach nothing else than objects of static storage. */
static kvf_tensor_set *const *_Atomic watched[MAX_SETS];
static struct sigaction before;
static bool installed;

static bool put_zeros(const siginfo_t *info)
{
    /* Not one that a process sent; not one of alignment, which would come again and again. */
    if (info->si_code != BUS_ADRERR && info->si_code != BUS_OBJERR)
        return false;
    for (int i = 0; i < MAX_SETS; i++) {
        kvf_tensor_set *const *set = atomic_load(&watched[i]);
        if (set && *set && kvf_tensor_set_fault(*set, info->si_addr))
            return true;
    }
    return false;
}

/* As if this handler were not there. */
static void pass_on(int signal_number, siginfo_t *info, void *context)
{
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal_number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal_number);
    } else if (before.sa_handler == SIG_DFL || info->si_code > 0) {
        /*
         * What faulted does so again; what was sent comes again when this handler
         * returns. The system ends the process, also where faults were to be ignored.
         */
        signal(SIGBUS, SIG_DFL);
        if (info->si_code <= 0)
            raise(SIGBUS);
    }
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    const int saved_errno = errno;
    if (!put_zeros(info))
        pass_on(signal_number, info, context);
    errno = saved_errno;
}

static bool install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigemptyset(&action.sa_mask);
    installed = installed || sigaction(SIGBUS, &action, &before) == 0;
    return installed;
}

bool cli_lost_files_watch(kvf_tensor_set *const *set)
{
    if (!install())
        return false;
    for (int i = 0; i < MAX_SETS; i++) {
        if (!atomic_load(&watched[i])) {
            atomic_store(&watched[i], set);
            return true;
        }
    }
    return false;
}

void cli_lost_files_forget(kvf_tensor_set *const *set)
{
    for (int i = 0; i < MAX_SETS; i++)
        if (atomic_load(&watched[i]) == set)
            atomic_store(&watched[i], NULL);
}

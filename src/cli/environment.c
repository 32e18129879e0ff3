#include "cli/environment.h"

#include <stdlib.h>
#include <string.h>

#include "cli/message.h"
#include "kvfold.h"

const char *cli_environment_text(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

bool cli_environment_switch(const char *command, const char *name, bool *on)
{
    const char *value = cli_environment_text(name);
    *on = value && strcmp(value, "1") == 0;
    if (!value || *on || strcmp(value, "0") == 0)
        return true;
    cli_error(command, "%s: '%.60s' is neither 0 nor 1", name, value);
    return false;
}

uint32_t cli_environment_threads(const char *command)
{
    const char *value = cli_environment_text("OMP_NUM_THREADS");
    if (!value)
        return 0;
    const char *digits = value + strspn(value, " \t");
    const size_t n_digits = strspn(digits, "0123456789");
    const char *rest = digits + n_digits + strspn(digits + n_digits, " \t");
    const unsigned long n = n_digits > 0 && n_digits < 10 ? strtoul(digits, NULL, 10) : 0;
    if (n >= 1 && n <= KVF_MAX_THREADS && (*rest == '\0' || *rest == ','))
        return (uint32_t)n;
    cli_note(command, "OMP_NUM_THREADS is ignored: '%.60s' is no number of threads, 1 to %d", value,
             KVF_MAX_THREADS);
    return 0;
}

/* kvfold: which command it is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/nearest.h"
#include "cli/overlap.h"
#include "cli/waiting.h"

static int unknown_command(const char *name)
{
    static const char *const names[] = {"run",     "verify", "score",     "plan",  "bench",
                                        "session", "help",   "--version", "--help"};
    const char *near = cli_nearest(name, names, sizeof names / sizeof names[0]);
    const char *what = name[0] == '-' ? "option" : "command";
    if (near)
        return cli_error(NULL, "unknown %s '%.60s'; did you mean %s?", what, name, near);
    return cli_error(
        NULL, "unknown %s '%.60s'; there are run, verify, score, plan, bench, session and help",
        what, name);
}

/* kvfold help [COMMAND] */
static int help(int argc, char **argv)
{
    if (argc < 2) {
        cli_help_print_overview();
        return CLI_EXIT_OK;
    }
    const cli_command command = cli_command_find(argv[1]);
    if (command == CLI_COMMAND_COUNT)
        return unknown_command(argv[1]);
    cli_help_print(command);
    return CLI_EXIT_OK;
}

static int run_command(cli_command command, int argc, char **argv)
{
    static int (*const commands[])(const cli_options *) = {
        [CLI_RUN] = cli_run,   [CLI_VERIFY] = cli_verify, [CLI_SCORE] = cli_score,
        [CLI_PLAN] = cli_plan, [CLI_BENCH] = cli_bench,   [CLI_SESSION] = cli_session,
    };
    cli_options options;
    int status;
    if (!cli_options_parse(command, argc, argv, &options, &status))
        return status;
    status = cli_overlap_check(&options);
    if (status != CLI_EXIT_OK)
        return status;
    if (command != CLI_PLAN) /* a plan takes no time: Ctrl-C simply ends it */
        cli_interrupt_catch();
    return commands[command](&options);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2)
        return cli_error(NULL,
                         "no command; there are run, verify, score, plan, bench, session and help");
    const char *name = argv[1];
    if (strcmp(name, "help") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(1, argv);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("kvfold %s\n", kvf_version_string());
        return CLI_EXIT_OK;
    }
    const cli_command command = cli_command_find(name);
    if (command == CLI_COMMAND_COUNT)
        return unknown_command(name);
    return run_command(command, argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    cli_waiting_settle(argv);
    const int status = dispatch(argc, argv);
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_EXIT_OK)
        /* Where an earlier write failed, its reason is gone. */
        return cli_error(NULL, "cannot write to standard output%s%s", errno ? ": " : "",
                         errno ? strerror(errno) : "");
    return status;
}

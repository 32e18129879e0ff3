/* kvfold: which command it is. */
#include <errno.h>
#include <fenv.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/nearest.h"
#include "cli/overlap.h"
#include "cli/streams.h"

static int unknown_command(const char *name)
{
    static const char *const names[] = {"run",   "verify",  "score",     "plan",
                                        "bench", "session", "inspect",   "tokenize",
                                        "serve", "help",    "--version", "--help"};
    const char *near = cli_nearest(name, names, sizeof names / sizeof names[0]);
    const char *what = name[0] == '-' ? "option" : "command";
    if (near)
        return cli_error(NULL, "unknown %s '%.60s'; did you mean %s?", what, name, near);
    return cli_error(NULL,
                     "unknown %s '%.60s'; there are run, serve, verify, score, plan, bench, "
                     "session, inspect, tokenize and help",
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
        [CLI_RUN] = cli_run,         [CLI_VERIFY] = cli_verify,     [CLI_SCORE] = cli_score,
        [CLI_PLAN] = cli_plan,       [CLI_BENCH] = cli_bench,       [CLI_SESSION] = cli_session,
        [CLI_INSPECT] = cli_inspect, [CLI_TOKENIZE] = cli_tokenize, [CLI_SERVE] = cli_serve,
    };
    cli_options options;
    int status;
    if (!cli_options_parse(command, argc, argv, &options, &status))
        return status;
    /* Every command prints, some after hours, some after what cannot be taken back. */
    if (cli_stream_was_closed(STDOUT_FILENO))
        return cli_error(options.command, "standard output is closed; send it to a file, or to "
                                          "/dev/null where only another file is wanted");
    status = cli_overlap_check(&options);
    if (status != CLI_EXIT_OK)
        return status;
    /* A plan, and what is asked of files, leaves nothing to finish. */
    cli_interrupt_catch(command == CLI_PLAN || command == CLI_SESSION || command == CLI_INSPECT ||
                        command == CLI_TOKENIZE);
    return commands[command](&options);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2)
        return cli_error(
            NULL, "no command; there are run, serve, verify, score, plan, bench, session, inspect, "
                  "tokenize and help");
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

static int finish_output(int status)
{
    errno = 0;
    const bool written = fflush(stdout) == 0 && !ferror(stdout);
    if (!written && status == CLI_EXIT_OK && cli_stream_was_closed(STDOUT_FILENO))
        return cli_error(NULL, "standard output is closed");
    if (!written && status == CLI_EXIT_OK)
        /* Where an earlier write failed, its reason is gone. */
        return cli_error(NULL, "cannot write to standard output%s%s", errno ? ": " : "",
                         errno ? strerror(errno) : "");
    return status;
}

int main(int argc, char **argv)
{
    /* A library that was linked with -ffast-math sets another one before main. */
    fesetenv(FE_DFL_ENV);
    if (!cli_streams_open())
        return cli_error(NULL, "cannot open /dev/null in the place of a closed standard stream: %s",
                         strerror(errno));
    return finish_output(dispatch(argc, argv));
}

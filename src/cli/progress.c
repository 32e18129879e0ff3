#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "clock.h"
#include "engine/amounts.h"

enum { BAR_CELLS = 24, DEFAULT_COLUMNS = 80 };
static const double redraw_seconds = 0.1;

static void start(cli_progress *progress, const char *label, uint64_t total, bool in_bytes)
{
    memset(progress, 0, sizeof *progress);
    progress->in_bytes = in_bytes;
    progress->shown = isatty(STDERR_FILENO) == 1;
    snprintf(progress->label, sizeof progress->label, "%s", label);
    progress->total = total;
    progress->started = kvf_seconds();
    cli_progress_update(progress, 0);
}

void cli_progress_start(cli_progress *progress, const char *label, uint64_t total_tokens)
{
    start(progress, label, total_tokens, false);
}

void cli_progress_start_bytes(cli_progress *progress, const char *label, uint64_t total_bytes)
{
    start(progress, label, total_bytes, true);
}

/* "3s", "4m05s", "2h03m" */
static void format_left(double seconds, char *text, size_t text_bytes)
{
    if (!(seconds < 360000)) {
        snprintf(text, text_bytes, "-");
        return;
    }
    const unsigned whole = (unsigned)(seconds + 0.5);
    if (whole < 60)
        snprintf(text, text_bytes, "%us", whole);
    else if (whole < 3600)
        snprintf(text, text_bytes, "%um%02us", whole / 60, whole % 60);
    else
        snprintf(text, text_bytes, "%uh%02um", whole / 3600, whole / 60 % 60);
}

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return DEFAULT_COLUMNS;
    return size.ws_col;
}

void cli_progress_update(cli_progress *progress, uint64_t done)
{
    const double now = kvf_seconds();
    if (!progress->shown || progress->total == 0 || now - progress->redrawn < redraw_seconds)
        return;
    const double share = (double)done / (double)progress->total;
    const double rate = kvf_rate((double)done, now - progress->started);
    char bar[BAR_CELLS + 1];
    const int filled = (int)(share * BAR_CELLS);
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    char speed[KVF_NUMBER_BYTES];
    char left[KVF_NUMBER_BYTES] = "-";
    if (rate > 0)
        format_left((double)(progress->total - done) / rate, left, sizeof left);
    char line[192];
    snprintf(line, sizeof line, "%s [%s] %3d%%  %s%s/s  %s left", progress->label, bar,
             (int)(share * 100),
             progress->in_bytes ? kvf_show_bytes((uint64_t)rate, speed)
                                : kvf_show_rate(rate, speed),
             progress->in_bytes ? "" : " tok", left);
    /*
     * A line that wraps could not be cleared. Blanks clear it on every terminal, also on one
     * that knows no escape sequence (TERM=dumb).
     */
    const int room = terminal_columns() - 1;
    const int length = (int)strlen(line);
    const int shown = length < room ? length : room;
    const int before = progress->drawn < room ? progress->drawn : room;
    fprintf(stderr, "\r%.*s%*s", shown, line, before > shown ? before - shown : 0, "");
    fflush(stderr);
    progress->drawn = shown;
    progress->redrawn = now;
}

void cli_progress_finish(cli_progress *progress)
{
    if (!progress->drawn)
        return;
    const int room = terminal_columns() - 1;
    fprintf(stderr, "\r%*s\r", progress->drawn < room ? progress->drawn : room, "");
    fflush(stderr);
    progress->drawn = 0;
}

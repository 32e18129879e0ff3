/* kvfold session: what is in the folder of saved sessions. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/events.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/nearest.h"
#include "cli/overlap.h"
#include "cli/table.h"
#include "engine/amounts.h"
#include "engine/saver.h"
#include "engine/session_files.h"
#include "model/sample.h"
#include "text/decoder.h"

enum {
    MAX_NAME = sizeof KVF_PREFIXES + KVF_MAX_SESSION_NAME,
    TAIL_TOKENS = 60,
    TAIL_IDS = 8,
    TIME_BYTES = 32
};

/* A saved session: "NAME", or "prefixes/NAME" for one that the store keeps. */
typedef struct entry {
    char name[MAX_NAME + 1];
    char *path;
    bool is_prefix;
    bool is_link;
    struct stat file;       /* what it leads to; all zero where that is nothing */
    kvf_snapshot_info info; /* where status is KVF_OK */
    kvf_error error;
} entry;

typedef struct entries {
    entry *list;
    size_t n;
    size_t capacity;
} entries;

static void free_entries(entries *all)
{
    for (size_t i = 0; i < all->n; i++)
        free(all->list[i].path);
    free(all->list);
}

/* ---- Which sessions ---------------------------------------------------------------------- */

/* Reads what the file says of itself; errors stay in the entry. */
static int add_entry(const cli_options *options, const char *folder, const char *name,
                     bool is_prefix, entries *all)
{
    if (all->n == all->capacity) {
        const size_t capacity = all->capacity ? 2 * all->capacity : 16;
        entry *larger = realloc(all->list, capacity * sizeof *larger);
        if (!larger)
            return cli_error(options->command, "out of memory for %zu sessions", capacity);
        all->list = larger;
        all->capacity = capacity;
    }
    entry *e = &all->list[all->n];
    memset(e, 0, sizeof *e);
    e->is_prefix = is_prefix;
    snprintf(e->name, sizeof e->name, "%s%.*s", is_prefix ? KVF_PREFIXES "/" : "",
             KVF_MAX_SESSION_NAME, name);
    kvf_error error;
    if (kvf_session_path(folder, e->name, KVF_SESSION_SUFFIX, &e->path, &error) != KVF_OK)
        return cli_fail(options->command, &error);
    all->n++;
    kvf_snapshot_info_read(e->path, &e->info, &e->error);
    e->is_link = lstat(e->path, &e->file) == 0 && S_ISLNK(e->file.st_mode);
    if (stat(e->path, &e->file) != 0)
        memset(&e->file, 0, sizeof e->file);
    if (e->is_link && e->error.status == KVF_FILE_NOT_FOUND)
        snprintf(e->error.message, sizeof e->error.message, "%s is a link that leads nowhere",
                 e->path);
    if (cli_is_output(&e->file))
        return cli_error(options->command, "standard output goes to %s; send it elsewhere",
                         e->path);
    return CLI_EXIT_OK;
}

/* Names first, then prefixes, both in the order of the alphabet. */
static int compare_entries(const void *a, const void *b)
{
    const entry *x = a;
    const entry *y = b;
    return x->is_prefix != y->is_prefix ? (int)x->is_prefix - (int)y->is_prefix
                                        : strcmp(x->name, y->name);
}

static int add_folder(const cli_options *options, const char *folder, bool is_prefix, entries *all)
{
    char *path;
    char reason[256];
    kvf_error error;
    int status = cli_result(
        options->command,
        kvf_session_path(folder, is_prefix ? KVF_PREFIXES : "", "", &path, &error), &error);
    DIR *listing = status == CLI_EXIT_OK ? opendir(path) : NULL;
    if (status == CLI_EXIT_OK && !listing && errno == ENOENT && options->engine.store && !is_prefix)
        status = cli_error(options->command, "there is no folder %s", path);
    else if (status == CLI_EXIT_OK && !listing && errno != ENOENT)
        status = cli_error(options->command, "cannot list %s: %s", path, strerror(errno));
    const struct dirent *found;
    while (listing && status == CLI_EXIT_OK && (found = readdir(listing))) {
        char name[KVF_MAX_SESSION_NAME + 1];
        const size_t length = strlen(found->d_name);
        const size_t suffix = strlen(KVF_SESSION_SUFFIX);
        if (length <= suffix || length - suffix > KVF_MAX_SESSION_NAME ||
            strcmp(found->d_name + length - suffix, KVF_SESSION_SUFFIX) != 0)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(length - suffix), found->d_name);
        if (kvf_session_name_check(name, reason, sizeof reason))
            status = add_entry(options, folder, name, is_prefix, all);
    }
    if (listing)
        closedir(listing);
    free(path);
    return status;
}

static int find_all(const cli_options *options, const char *folder, entries *all)
{
    int status = add_folder(options, folder, false, all);
    if (status == CLI_EXIT_OK)
        status = add_folder(options, folder, true, all);
    if (all->n > 0)
        qsort(all->list, all->n, sizeof *all->list, compare_entries);
    return status;
}

/* The sessions that the arguments name, all of which have to be there. */
static int find_named(const cli_options *options, const char *folder, char **names, int n_names,
                      entries *all)
{
    static const char prefix[] = KVF_PREFIXES "/";
    char reason[256];
    int status = CLI_EXIT_OK;
    for (int i = 0; i < n_names && status == CLI_EXIT_OK; i++) {
        const bool is_prefix = strncmp(names[i], prefix, sizeof prefix - 1) == 0;
        const char *name = names[i] + (is_prefix ? sizeof prefix - 1 : 0);
        if (!kvf_session_name_check(name, reason, sizeof reason))
            return cli_error(options->command, "%s", reason);
        status = add_entry(options, folder, name, is_prefix, all);
        const entry *e = all->n > 0 ? &all->list[all->n - 1] : NULL;
        if (status == CLI_EXIT_OK && !e->is_link && e->error.status == KVF_FILE_NOT_FOUND)
            status =
                cli_error(options->command, "there is no session '%s' in %s", names[i], folder);
    }
    return status;
}

/* ---- list and show -------------------------------------------------------------------------- */

static const char *format_time(const entry *e, char text[TIME_BYTES])
{
    struct tm local;
    const time_t seconds = e->file.st_mtime;
    if (!localtime_r(&seconds, &local) || !strftime(text, TIME_BYTES, "%Y-%m-%d %H:%M", &local))
        strcpy(text, "-");
    return text;
}

static cli_record record_of(const entry *e)
{
    const kvf_snapshot_info *info = &e->info;
    char model[20];
    kvf_sampler sampler;
    cli_record record = cli_record_new();
    snprintf(model, sizeof model, "%016llx", (unsigned long long)info->model_fingerprint);
    cli_record_text(&record, "name", e->name);
    cli_record_text(&record, "path", e->path);
    cli_record_count(&record, "tokens", kvf_saver_n_tokens(info));
    cli_record_count(&record, "ctx", info->max_tokens);
    cli_record_text(&record, "profile", kvf_profile_get(info->profile)->name);
    cli_record_bool(&record, "grid", !info->grid_off);
    cli_record_count(&record, "bytes", info->file_bytes);
    cli_record_count(&record, "unused_bytes", info->unused_bytes);
    cli_record_bool(&record, "compressed", info->compressed);
    cli_record_count(&record, "checkpoints", info->n_checkpoints);
    cli_record_count(&record, "version", info->version);
    cli_record_count(&record, "saves", info->generation);
    cli_record_count(&record, "saved", (uint64_t)e->file.st_mtime);
    cli_record_text(&record, "model", model);
    const bool sampled = kvf_sampler_restore(&sampler, info->caller_state);
    cli_record_number(&record, "temperature", sampled ? (double)sampler.temperature : (double)NAN);
    return record;
}

static int print_list(const cli_options *options, const entries *all)
{
    static const cli_column columns[] = {
        {"name", 0, true},   {"tokens", 0, false}, {"ctx", 0, false}, {"profile", 0, true},
        {"bytes", 0, false}, {"saved", 0, true},   {"model", 0, true}};
    cli_table table;
    cli_table_start(&table, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < all->n; i++) {
        const entry *e = &all->list[i];
        char number[KVF_NUMBER_BYTES];
        char when[TIME_BYTES];
        if (e->error.status != KVF_OK)
            continue;
        char(*cells)[CLI_CELL_BYTES] = cli_table_row(&table);
        if (!cells) {
            cli_table_free(&table);
            return cli_error(options->command, "out of memory for the table");
        }
        snprintf(cells[0], CLI_CELL_BYTES, "%s", e->name);
        strcpy(cells[1], kvf_show_count(kvf_saver_n_tokens(&e->info), number));
        strcpy(cells[2], kvf_show_context(e->info.max_tokens, number));
        snprintf(cells[3], CLI_CELL_BYTES, "%s", kvf_profile_get(e->info.profile)->name);
        strcpy(cells[4], kvf_show_bytes(e->info.file_bytes, number));
        strcpy(cells[5], format_time(e, when));
        snprintf(cells[6], CLI_CELL_BYTES, "%016llx",
                 (unsigned long long)e->info.model_fingerprint);
    }
    if (table.n_rows > 0)
        cli_table_print(&table, true);
    cli_table_free(&table);
    return CLI_EXIT_OK;
}

static void say_none(const char *folder)
{
    printf("no sessions in ");
    cli_put_path(folder);
    putchar('\n');
}

static int list_sessions(const cli_options *options, const char *folder, const entries *all)
{
    int status = CLI_EXIT_OK;
    bool header = true;
    for (size_t i = 0; i < all->n; i++)
        if (all->list[i].error.status != KVF_OK)
            fprintf(stderr, "kvfold: session: warning: %s\n", all->list[i].error.message);
    if (all->n == 0 && options->output == CLI_OUTPUT_TABLE)
        say_none(folder);
    if (options->output == CLI_OUTPUT_TABLE)
        return print_list(options, all);
    for (size_t i = 0; i < all->n && status == CLI_EXIT_OK; i++) {
        if (all->list[i].error.status != KVF_OK)
            continue;
        cli_record record = record_of(&all->list[i]);
        status = cli_record_print(options->command, &record, options->output, header);
        header = false;
    }
    return status;
}

/* The last tokens as the text of bytes that they are, on one line. */
static void print_bytes(const kvf_tokenizer *tokenizer, const int32_t *tokens, uint64_t n)
{
    printf("ends with  \"");
    for (uint64_t i = 0; i < n; i++) {
        size_t bytes;
        const char *text = kvf_tokenizer_bytes(tokenizer, tokens[i], &bytes);
        if (bytes > 0)
            putchar(*text == '\n' || *text == '\t' ? ' '
                    : *text >= ' ' && *text < 0x7f ? *text
                                                   : '?');
    }
    printf("\"\n");
}

/* No model is asked for, so that only a vocabulary of bytes is known: else it is ids. */
static void print_ids(const int32_t *tokens, uint64_t n)
{
    printf("ends with  the tokens");
    for (uint64_t i = n > TAIL_IDS ? n - TAIL_IDS : 0; i < n; i++)
        printf(" %d", tokens[i]);
    putchar('\n');
}

/* How the text ends. */
static void print_tail(const entry *e)
{
    const uint64_t n = e->info.n_tokens;
    const uint64_t first = n > TAIL_TOKENS ? n - TAIL_TOKENS : 0;
    const int32_t pending = kvf_saver_pending(&e->info);
    int32_t *tokens = malloc((n + 1) * sizeof *tokens);
    kvf_tokenizer *tokenizer = NULL;
    kvf_error error;
    if (!tokens || kvf_snapshot_tokens(e->path, tokens, n, &error) != KVF_OK) {
        printf("text       cannot be read\n");
        free(tokens);
        return;
    }
    if (pending >= 0)
        tokens[n] = pending;
    const uint64_t n_shown = n - first + (pending >= 0);
    if (e->info.geometry.vocab <= KVF_MAX_BYTE_VOCABULARY &&
        kvf_tokenizer_open_bytes(e->info.geometry.vocab, &tokenizer, &error) == KVF_OK)
        print_bytes(tokenizer, tokens + first, n_shown);
    else
        print_ids(tokens + first, n_shown);
    kvf_tokenizer_close(tokenizer);
    free(tokens);
}

/* Where the session can be gone back to: the first of them and the last. */
static void print_checkpoints(const entry *e)
{
    enum { FIRST_SHOWN = 2, LAST_SHOWN = 8 };
    const uint32_t n = e->info.n_checkpoints;
    char number[KVF_NUMBER_BYTES];
    uint64_t *places = malloc((n + 1) * sizeof *places);
    kvf_error error;
    if (n > 0 && places && kvf_snapshot_checkpoints(e->path, places, n, &error) == KVF_OK) {
        printf("back to    ");
        for (uint32_t i = 0; i < n; i++) {
            const bool left_out = i >= FIRST_SHOWN && n - i > LAST_SHOWN;
            if (i == FIRST_SHOWN && left_out)
                printf(", ..");
            if (!left_out)
                printf("%s%s", i > 0 ? ", " : "", kvf_show_count(places[i], number));
        }
        printf(" tokens (%u checkpoint%s)\n", n, n == 1 ? "" : "s");
    }
    free(places);
}

static void print_entry(const entry *e)
{
    const kvf_snapshot_info *info = &e->info;
    char a[KVF_NUMBER_BYTES];
    char b[KVF_NUMBER_BYTES];
    char when[TIME_BYTES];
    kvf_sampler sampler;
    printf("name       %s\n", e->name);
    printf("file       ");
    cli_put_path(e->path);
    putchar('\n');
    printf("tokens     %s of a context of %s\n", kvf_show_count(kvf_saver_n_tokens(info), a),
           kvf_show_context(info->max_tokens, b));
    printf("profile    %s%s\n", kvf_profile_get(info->profile)->name,
           info->grid_off ? ", without the grid" : "");
    printf("bytes      %s", kvf_show_bytes(info->file_bytes, a));
    if (info->unused_bytes > 0)
        printf(", %s of them from earlier saves", kvf_show_bytes(info->unused_bytes, b));
    printf("%s\n", info->compressed ? ", compressed" : "");
    printf("saved      %s, %s time%s\n", format_time(e, when), kvf_show_count(info->generation, a),
           info->generation == 1 ? "" : "s");
    printf("model      %016llx (%u layers, a vocabulary of %s)\n",
           (unsigned long long)info->model_fingerprint, info->geometry.n_layers,
           kvf_show_count(info->geometry.vocab, a));
    if (kvf_sampler_restore(&sampler, info->caller_state) && sampler.temperature > 0)
        printf("sampler    temperature %g, top-p %g, min-p %g\n", (double)sampler.temperature,
               (double)sampler.top_p, (double)sampler.min_p);
    else if (!e->is_prefix)
        printf("sampler    the likeliest token\n");
    print_checkpoints(e);
    print_tail(e);
}

static int show_sessions(const cli_options *options, const char *folder, const entries *all)
{
    (void)folder;
    int status = CLI_EXIT_OK;
    for (size_t i = 0; i < all->n && status == CLI_EXIT_OK; i++) {
        if (all->list[i].error.status != KVF_OK)
            return cli_error(options->command, "%s", all->list[i].error.message);
        if (options->output == CLI_OUTPUT_TABLE) {
            if (i > 0)
                putchar('\n');
            print_entry(&all->list[i]);
            continue;
        }
        cli_record record = record_of(&all->list[i]);
        status = cli_record_print(options->command, &record, options->output, i == 0);
    }
    return status;
}

/* ---- check, rm, export ------------------------------------------------------------------------
 */

static int check_sessions(const cli_options *options, const char *folder, const entries *all)
{
    int status = CLI_EXIT_OK;
    if (all->n == 0 && options->output == CLI_OUTPUT_TABLE)
        say_none(folder);
    for (size_t i = 0; i < all->n; i++) {
        const entry *e = &all->list[i];
        char bytes[KVF_NUMBER_BYTES];
        kvf_error error;
        const bool good = kvf_snapshot_verify(e->path, &error) == KVF_OK;
        if (!good)
            status = CLI_EXIT_DIFFERENT;
        if (options->output == CLI_OUTPUT_TABLE) {
            if (good)
                printf("%s: good, all of %s\n", e->name, kvf_show_bytes(e->info.file_bytes, bytes));
            else
                printf("%s: %s\n", e->name, error.message);
            continue;
        }
        cli_record record = cli_record_new();
        cli_record_text(&record, "name", e->name);
        cli_record_bool(&record, "good", good);
        cli_record_text(&record, "error", good ? "" : error.message);
        const int printed = cli_record_print(options->command, &record, options->output, i == 0);
        status = printed == CLI_EXIT_OK ? status : printed;
    }
    return status;
}

/* A link goes alone, wherever it leads; otherwise the file and what a save left beside it. */
static int remove_session(const cli_options *options, const char *folder, const entry *e)
{
    char bytes[KVF_NUMBER_BYTES];
    kvf_session_lock lock = {-1, NULL};
    cli_listener listener;
    const kvf_engine_events events = cli_events(&listener, options->command);
    kvf_error error;
    if (!e->is_link && !S_ISREG(e->file.st_mode))
        return cli_error(options->command, "%s is not a regular file; it is not removed", e->path);
    int status = CLI_EXIT_OK;
    if (!e->is_prefix)
        status = cli_result(
            options->command,
            kvf_session_lock_take(&options->engine, &events, folder, e->name, &lock, &error),
            &error);
    if (status == CLI_EXIT_OK && unlink(e->path) != 0)
        status = cli_error(options->command, "cannot remove %s: %s", e->path, strerror(errno));
    /* With the lock nobody writes it. */
    char *saving = e->is_link || e->is_prefix ? NULL : kvf_saving_path(e->path);
    if (status == CLI_EXIT_OK && saving)
        unlink(saving);
    free(saving);
    kvf_session_lock_give(&events, &lock);
    if (status == CLI_EXIT_OK && e->is_link)
        printf("removed the link %s, and not what it leads to\n", e->name);
    else if (status == CLI_EXIT_OK)
        printf("removed %s, %s\n", e->name, kvf_show_bytes((uint64_t)e->file.st_size, bytes));
    return status;
}

static int remove_sessions(const cli_options *options, const char *folder, const entries *all)
{
    int status = CLI_EXIT_OK;
    for (size_t i = 0; i < all->n && status == CLI_EXIT_OK; i++)
        status = remove_session(options, folder, &all->list[i]);
    return status;
}

static int export_session(const cli_options *options, const entry *e, const char *file)
{
    struct stat existing;
    if (strcmp(file, "-") == 0)
        return cli_error(options->command, "export writes a file, not standard output");
    if (lstat(file, &existing) == 0)
        return cli_error(options->command, "%s is there already; it is not replaced", file);
    const kvf_device_options device_options = {.n_threads = 1};
    const kvf_load_options load = {.verify = true};
    const kvf_save_options compressed = {.compress = true, .no_lock = options->engine.no_lock};
    kvf_save_report report = {0};
    kvf_device *device = NULL;
    kvf_session *session = NULL;
    kvf_error error;
    char before[KVF_NUMBER_BYTES];
    char after[KVF_NUMBER_BYTES];
    kvf_status status = kvf_device_open(&device_options, &device, &error);
    if (status == KVF_OK)
        status = kvf_session_load(device, e->path, &load, &session, &error);
    char *saving = kvf_saving_path(file);
    cli_interrupt_remove(saving);
    if (status == KVF_OK)
        status = kvf_session_save(session, file, &compressed, &report, &error);
    cli_interrupt_keep(saving);
    free(saving);
    kvf_session_close(session);
    kvf_device_close(device);
    if (status != KVF_OK)
        return cli_error(options->command, "%s", error.message);
    printf("exported %s to ", e->name);
    cli_put_path(file);
    printf(": %s, compressed from %s\n", kvf_show_bytes(report.file_bytes, after),
           kvf_show_bytes(e->info.file_bytes, before));
    return CLI_EXIT_OK;
}

/* ---- The command ------------------------------------------------------------------------------
 */

typedef int action_fn(const cli_options *options, const char *folder, const entries *all);

typedef struct action {
    const char *name;
    action_fn *run; /* NULL: export, whose last argument is a file */
    const char *usage;
    bool all;     /* without names: every session */
    bool records; /* has --json and --csv */
} action;

static const action actions[] = {
    {"list", list_sessions, "list", true, true},
    {"show", show_sessions, "show NAME...", false, true},
    {"check", check_sessions, "check [NAME]...", true, true},
    {"rm", remove_sessions, "rm NAME...", false, false},
    {"export", NULL, "export NAME FILE", false, false},
};
enum { N_ACTIONS = sizeof actions / sizeof *actions };

static const action *find_action(const char *name)
{
    const char *names[N_ACTIONS];
    for (size_t i = 0; i < N_ACTIONS; i++) {
        names[i] = actions[i].name;
        if (strcmp(name, names[i]) == 0)
            return &actions[i];
    }
    const char *near = cli_nearest(name, names, N_ACTIONS);
    if (near)
        cli_error("session", "unknown action '%.60s'; did you mean %s?", name, near);
    else
        cli_error("session", "unknown action '%.60s'; there are list, show, check, rm and export",
                  name);
    return NULL;
}

static int check_arguments(const cli_options *options, const action *what, int n_names)
{
    const bool is_list = what->run == list_sessions;
    const bool enough = what->run ? what->all || n_names > 0 : n_names == 2;
    if (!enough || (is_list && n_names > 0))
        return cli_error("session", "usage: kvfold session %s [OPTION]...", what->usage);
    if (!what->records && options->output != CLI_OUTPUT_TABLE)
        return cli_error("session", "%s has no %s", what->name,
                         options->output == CLI_OUTPUT_JSON ? "--json" : "--csv");
    return CLI_EXIT_OK;
}

int cli_session(const cli_options *options)
{
    entries all = {NULL, 0, 0};
    char *folder = NULL;
    kvf_error error;
    if (options->n_arguments == 0)
        return cli_error("session", "no action; there are list, show, check, rm and export");
    const action *what = find_action(options->arguments[0]);
    if (!what)
        return CLI_EXIT_BAD_INPUT;
    char **names = options->arguments + 1;
    const int n_names = options->n_arguments - 1;
    int status = check_arguments(options, what, n_names);
    if (status == CLI_EXIT_OK)
        status =
            cli_result("session", kvf_session_folder(&options->engine, &folder, &error), &error);
    if (status == CLI_EXIT_OK && n_names == 0)
        status = find_all(options, folder, &all);
    else if (status == CLI_EXIT_OK)
        status = find_named(options, folder, names, what->run ? n_names : 1, &all);
    if (status == CLI_EXIT_OK)
        status = what->run ? what->run(options, folder, &all)
                           : export_session(options, &all.list[0], names[1]);
    free_entries(&all);
    free(folder);
    return status;
}

/* kvfold serve: answers requests by HTTP until it is told to end. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/events.h"
#include "cli/interrupt.h"
#include "cli/message.h"
#include "cli/text.h"
#include "engine/amounts.h"
#include "engine/conversation.h"
#include "engine/session_files.h"

#ifdef KVF_HTTP_NONE

int cli_serve(const cli_options *options)
{
    return cli_error(options->command, "this kvfold was built without libmicrohttpd, which serve "
                                       "needs; install it (Debian: libmicrohttpd-dev) and build "
                                       "again");
}

#else

#include "server/server.h"

/* Where none was given; caches grow only as they are used. */
static const uint64_t default_context_tokens = 131072;
/* Behind what --store names, or its default. */
#define FOLDER "served"
enum { MAX_KEY_FILE_BYTES = 1 << 20 };

typedef struct serving {
    cli_options options;
    cli_listener listener;
    kvf_engine engine;
    cli_text key_text;
    const char **keys; /* [n_keys] of the options and of the file */
    size_t n_keys;
    FILE *trace;
    pthread_mutex_t trace_lock;
    kvf_server *server;
    kvf_scheduler *scheduler;
    char *folder;
    uint64_t context_tokens;
    int never[2]; /* a pipe that nothing comes through */
} serving;

/* ---- Keys --------------------------------------------------------------------------------- */

static int check_key(const char *key, const char *where)
{
    const size_t n = strlen(key);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)key[i] <= ' ' || (unsigned char)key[i] >= 0x7f)
            return cli_error("serve", "%s: a key is of letters, digits and signs of ASCII", where);
    return n > 0 ? CLI_EXIT_OK : cli_error("serve", "%s: a key is empty", where);
}

/* Lines of a file; those that are empty or begin with '#' are none. */
static int take_key_lines(serving *s)
{
    char *rest = s->key_text.data;
    int status = CLI_EXIT_OK;
    if (strlen(s->key_text.data) != s->key_text.bytes)
        return cli_error("serve", "'%s' is no text", s->options.api_key_file);
    while (rest && *rest && status == CLI_EXIT_OK) {
        char *line = rest;
        rest = strchr(line, '\n');
        if (rest)
            *rest++ = '\0';
        line[strcspn(line, "\r")] = '\0';
        if (*line == '\0' || *line == '#')
            continue;
        status = check_key(line, s->options.api_key_file);
        s->keys[s->n_keys++] = line;
    }
    if (status == CLI_EXIT_OK && s->n_keys == s->options.api_keys.n)
        return cli_error("serve", "'%s' has no keys; each is a line", s->options.api_key_file);
    return status;
}

static int read_keys(serving *s)
{
    const cli_options *options = &s->options;
    size_t room = options->api_keys.n;
    int status = CLI_EXIT_OK;
    if (options->api_key_file) {
        status =
            cli_text_read("serve", options->api_key_file, MAX_KEY_FILE_BYTES, true, &s->key_text);
        if (status == CLI_EXIT_OK && s->key_text.longer)
            return cli_error("serve", "'%s' is too long for a file of keys", options->api_key_file);
        for (size_t i = 0; i < s->key_text.bytes; i++)
            room += s->key_text.data[i] == '\n';
        room++;
    }
    if (status != CLI_EXIT_OK)
        return status;
    s->keys = calloc(room + 1, sizeof *s->keys);
    if (!s->keys)
        return cli_error("serve", "out of memory for keys");
    for (size_t i = 0; i < options->api_keys.n && status == CLI_EXIT_OK; i++) {
        status = check_key(options->api_keys.list[i], "--api-key");
        s->keys[s->n_keys++] = options->api_keys.list[i];
    }
    if (status == CLI_EXIT_OK && options->api_key_file)
        status = take_key_lines(s);
    return status;
}

/* ---- What it says ------------------------------------------------------------------------- */

static void say_line(void *user, const char *line)
{
    (void)user;
    cli_note("serve", "%s", line);
}

static void trace_line(void *user, const char *line, size_t bytes)
{
    serving *s = user;
    pthread_mutex_lock(&s->trace_lock);
    fwrite(line, 1, bytes, s->trace);
    fputc('\n', s->trace);
    fflush(s->trace);
    pthread_mutex_unlock(&s->trace_lock);
}

/* For nobody else to read. */
static int open_trace(serving *s)
{
    const char *path = s->options.trace_file;
    if (!path)
        return CLI_EXIT_OK;
    const int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    s->trace = file >= 0 ? fdopen(file, "a") : NULL;
    if (s->trace)
        return CLI_EXIT_OK;
    const int why = errno;
    if (file >= 0)
        close(file);
    return cli_error("serve", "--trace: cannot write '%s': %s", path, strerror(why));
}

/* ---- Loading ------------------------------------------------------------------------------ */

static int listen_for_requests(serving *s)
{
    const cli_options *o = &s->options;
    const kvf_server_options options = {.model = o->engine.model,
                                        .aliases = o->aliases.list,
                                        .n_aliases = o->aliases.n,
                                        .access = {.host = o->host,
                                                   .allow_hosts = o->allow_hosts.list,
                                                   .n_allow_hosts = o->allow_hosts.n,
                                                   .origins = o->origins.list,
                                                   .n_origins = o->origins.n,
                                                   .keys = s->keys,
                                                   .n_keys = s->n_keys},
                                        .port = o->port,
                                        .unix_socket = o->unix_socket,
                                        .connections = o->connections,
                                        .idle_seconds = (double)o->idle_seconds,
                                        .body_seconds = (double)o->body_seconds,
                                        .thinking = !o->thinking_given || o->thinking,
                                        .release = o->release,
                                        .user = s,
                                        .say = say_line,
                                        .trace = s->trace ? trace_line : NULL};
    kvf_error error;
    if (s->n_keys == 0 && !o->unix_socket && !kvf_access_is_loopback(o->host))
        return cli_error("serve",
                         "--host %s can be reached from other machines; give --api-key-file FILE "
                         "or --api-key KEY as well",
                         o->host);
    if (kvf_server_open(&options, &s->server, &error) != KVF_OK)
        return cli_fail("serve", &error);
    printf("kvfold serve: listening on %s%s\n", o->unix_socket ? "" : "http://",
           kvf_server_address(s->server));
    fflush(stdout);
    return CLI_EXIT_OK;
}

static int choose_context(serving *s)
{
    const uint64_t model_tokens = s->engine.config.geometry.max_tokens;
    char context[KVF_NUMBER_BYTES];
    char limit[KVF_NUMBER_BYTES];
    s->context_tokens =
        default_context_tokens < model_tokens ? default_context_tokens : model_tokens;
    if (s->options.n_contexts == 0)
        return CLI_EXIT_OK;
    s->context_tokens = s->options.contexts[0];
    if (s->context_tokens > model_tokens)
        return cli_error("serve", "--ctx %s is more than the model's maximum of %s tokens",
                         kvf_show_count(s->context_tokens, context),
                         kvf_show_count(model_tokens, limit));
    return CLI_EXIT_OK;
}

static int load(serving *s)
{
    kvf_error error;
    const kvf_request request = {.profile = s->options.engine.profile,
                                 .context_tokens = s->context_tokens,
                                 .least_tokens = 1,
                                 .n_forks = 1};
    kvf_server_say_loading(s->server, "loading weights", 0.2);
    kvf_status status = kvf_engine_check_memory(&s->engine, &request, &error);
    if (status == KVF_OK)
        status = kvf_engine_load(&s->engine, s->context_tokens, &error);
    if (status == KVF_OK)
        status = kvf_engine_open_tokenizer(&s->engine, &error);
    if (status == KVF_OK && kvf_tokenizer_is_bytes(s->engine.tokenizer)) {
        const kvf_model_config *config = &s->engine.config;
        bool has_room;
        status = kvf_conversation_mark_bytes(s->engine.tokenizer, config->bos_token,
                                             config->n_eos_tokens ? config->eos_tokens[0] : -1,
                                             &has_room, &error);
    }
    return cli_result("serve", status, &error);
}

/* The checkpoint's, where no option says otherwise. */
static int read_defaults(const serving *s, kvf_draw_defaults *defaults)
{
    const kvf_engine_options *options = &s->options.engine;
    kvf_error error;
    if (kvf_draw_defaults_read(s->engine.files, defaults, &error) != KVF_OK)
        return cli_fail("serve", &error);
    if (options->temperature_given)
        defaults->temperature = options->temperature;
    if (options->top_p_given)
        defaults->top_p = options->top_p;
    if (options->min_p_given)
        defaults->min_p = options->min_p;
    if (defaults->passed_over[0])
        cli_note("serve", "the checkpoint asks for ways to draw that are not followed: %s",
                 defaults->passed_over);
    return CLI_EXIT_OK;
}

static int make_folder(serving *s)
{
    char *folder = NULL;
    kvf_error error;
    kvf_status status = kvf_session_folder(&s->options.engine, &folder, &error);
    if (status == KVF_OK)
        status = kvf_session_path(folder, FOLDER, "", &s->folder, &error);
    if (status == KVF_OK)
        status = kvf_make_folder(s->folder, &error);
    free(folder);
    return cli_result("serve", status, &error);
}

static int begin(serving *s)
{
    const cli_options *o = &s->options;
    const kvf_scheduler_options options = {.profile = o->engine.profile,
                                           .context_tokens = s->context_tokens,
                                           .parallel = o->parallel,
                                           .queue = o->queue,
                                           .queue_timeout_seconds =
                                               (double)o->queue_timeout_seconds,
                                           .max_tokens = o->engine.max_tokens,
                                           .memory_bytes = o->memory_bytes,
                                           .folder = s->folder,
                                           .folder_max_bytes = o->engine.store_max_bytes,
                                           .no_lock = o->engine.no_lock,
                                           .replay_max_bytes = o->replay_max_bytes};
    kvf_draw_defaults defaults;
    kvf_error error;
    const int status = read_defaults(s, &defaults);
    if (status != CLI_EXIT_OK)
        return status;
    kvf_server_say_loading(s->server, "looking through saved sessions", 0.8);
    if (kvf_scheduler_open(&s->engine, &options, &s->scheduler, &error) != KVF_OK ||
        kvf_server_begin(s->server, &s->engine, s->scheduler, s->context_tokens, &defaults,
                         &error) != KVF_OK)
        return cli_fail("serve", &error);
    printf("kvfold serve: ready\n");
    fflush(stdout);
    return CLI_EXIT_OK;
}

static int serve(serving *s)
{
    int status = read_keys(s);
    if (status == CLI_EXIT_OK)
        status = open_trace(s);
    if (status == CLI_EXIT_OK)
        status = listen_for_requests(s);
    if (status == CLI_EXIT_OK)
        status = cli_open_engine(&s->options, &s->listener, &s->engine);
    if (status == CLI_EXIT_OK)
        status = choose_context(s);
    if (status == CLI_EXIT_OK)
        status = make_folder(s);
    if (status == CLI_EXIT_OK)
        status = load(s);
    if (status == CLI_EXIT_OK)
        status = begin(s);
    return status;
}

int cli_serve(const cli_options *options)
{
    serving s = {.options = *options, .never = {-1, -1}};
    pthread_mutex_init(&s.trace_lock, NULL);
    cli_interrupt_save_first();
    int status =
        pipe(s.never) == 0 ? serve(&s) : cli_error("serve", "no pipe: %s", strerror(errno));
    if (status == CLI_EXIT_OK)
        cli_interrupt_wait_readable(s.never[0]);
    if (s.server)
        kvf_server_stop(s.server);
    kvf_scheduler_close(s.scheduler);
    kvf_server_close(s.server);
    kvf_engine_close(&s.engine);
    if (status == CLI_EXIT_OK)
        printf("kvfold serve: ended\n");
    if (s.trace && fclose(s.trace) != 0 && status == CLI_EXIT_OK)
        status = cli_error("serve", "cannot write '%s': %s", options->trace_file, strerror(errno));
    for (int i = 0; i < 2; i++)
        if (s.never[i] >= 0)
            close(s.never[i]);
    pthread_mutex_destroy(&s.trace_lock);
    cli_text_free(&s.key_text);
    free(s.keys);
    free(s.folder);
    return status;
}

#endif

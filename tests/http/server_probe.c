/*
 * The server with the scripted scheduler (fake_scheduler.c) and short waits:
 *   server_probe MODEL [OPTION VALUE]..
 *     --port N (0), --unix PATH, --host NAME, --key KEY, --allow-host NAME, --cors ORIGIN, --alias
 *     NAME, --parallel N (64), --think 0|1, --trace FILE, --stir SECONDS, --head SECONDS,
 *     --body SECONDS, --grace SECONDS, --idle SECONDS, --connections N, --load SECONDS (so long, or
 *     until something is written to it, it says that it loads)
 * Prints where it listens, and "ready". Ends when standard input does.
 */
#include "engine/conversation.h"
#include "engine/engine.h"
#include "server/server.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_VALUES = 8 };

typedef struct probe {
    kvf_server_options options;
    const char *keys[MAX_VALUES], *hosts[MAX_VALUES], *origins[MAX_VALUES], *aliases[MAX_VALUES];
    kvf_scheduler_options scheduler;
    double load_seconds;
    FILE *trace;
} probe;

static void say_line(void *user, const char *line)
{
    (void)user;
    fprintf(stderr, "%s\n", line);
}

static void trace_line(void *user, const char *line, size_t bytes)
{
    probe *p = user;
    fwrite(line, 1, bytes, p->trace);
    fputc('\n', p->trace);
    fflush(p->trace);
}

static void take_option(probe *p, const char *name, const char *value)
{
    kvf_server_options *o = &p->options;
    if (strcmp(name, "--port") == 0)
        o->port = (uint16_t)atoi(value);
    else if (strcmp(name, "--unix") == 0)
        o->unix_socket = value;
    else if (strcmp(name, "--host") == 0)
        o->access.host = value;
    else if (strcmp(name, "--key") == 0)
        p->keys[o->access.n_keys++] = value;
    else if (strcmp(name, "--allow-host") == 0)
        p->hosts[o->access.n_allow_hosts++] = value;
    else if (strcmp(name, "--cors") == 0)
        p->origins[o->access.n_origins++] = value;
    else if (strcmp(name, "--alias") == 0)
        p->aliases[o->n_aliases++] = value;
    else if (strcmp(name, "--parallel") == 0)
        p->scheduler.parallel = (uint32_t)atoi(value);
    else if (strcmp(name, "--think") == 0)
        o->thinking = atoi(value);
    else if (strcmp(name, "--trace") == 0)
        p->trace = fopen(value, "a");
    else if (strcmp(name, "--stir") == 0)
        o->stir_seconds = atof(value);
    else if (strcmp(name, "--head") == 0)
        o->head_seconds = atof(value);
    else if (strcmp(name, "--body") == 0)
        o->body_seconds = atof(value);
    else if (strcmp(name, "--grace") == 0)
        o->body_grace_seconds = atof(value);
    else if (strcmp(name, "--idle") == 0)
        o->idle_seconds = atof(value);
    else if (strcmp(name, "--load") == 0)
        p->load_seconds = atof(value);
    else if (strcmp(name, "--connections") == 0)
        o->connections = (uint32_t)atoi(value);
    else
        exit(2);
}

static void fail(const kvf_error *error)
{
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static void load(probe *p, kvf_server *server, kvf_engine *engine)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    const kvf_engine_events events = {.user = NULL};
    kvf_error error;
    bool has_room;
    for (double waited = 0; waited < p->load_seconds && input.revents == 0; waited += 0.05) {
        kvf_server_say_loading(server, "waiting", waited / p->load_seconds);
        poll(&input, 1, 50);
    }
    static kvf_engine_options options;
    options.model = p->options.model;
    if (kvf_engine_open(&options, &events, engine, &error) != KVF_OK ||
        kvf_engine_open_tokenizer(engine, &error) != KVF_OK ||
        kvf_conversation_mark_bytes(engine->tokenizer, engine->config.bos_token,
                                    engine->config.eos_tokens[0], &has_room, &error) != KVF_OK)
        fail(&error);
}

int main(int argc, char **argv)
{
    probe p = {.options = {.access = {.host = "127.0.0.1"}, .say = say_line},
               .scheduler = {.parallel = KVF_MAX_CHOICES}};
    kvf_server_options *o = &p.options;
    const kvf_draw_defaults defaults = {.top_p = 1};
    kvf_server *server = NULL;
    kvf_scheduler *scheduler = NULL;
    kvf_engine engine;
    kvf_error error;
    char byte;
    if (argc < 2 || argc % 2)
        return 2;
    o->model = argv[1];
    for (int i = 2; i < argc; i += 2)
        take_option(&p, argv[i], argv[i + 1]);
    o->access.keys = p.keys;
    o->access.allow_hosts = p.hosts;
    o->access.origins = p.origins;
    o->aliases = p.aliases;
    o->user = &p;
    o->trace = p.trace ? trace_line : NULL;
    if (kvf_server_open(o, &server, &error) != KVF_OK)
        fail(&error);
    printf("%s\n", kvf_server_address(server));
    fflush(stdout);
    load(&p, server, &engine);
    if (kvf_scheduler_open(&engine, &p.scheduler, &scheduler, &error) != KVF_OK ||
        kvf_server_begin(server, &engine, scheduler, 65536, &defaults, &error) != KVF_OK)
        fail(&error);
    printf("ready\n");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    kvf_server_stop(server);
    kvf_scheduler_close(scheduler);
    kvf_server_close(server);
    kvf_engine_close(&engine);
    if (p.trace)
        fclose(p.trace);
    return 0;
}

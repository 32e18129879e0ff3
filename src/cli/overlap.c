#include "cli/overlap.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/events.h"
#include "cli/message.h"
#include "engine/session_files.h"

/* Only what has a content of its own can be replaced: not a terminal, a pipe, /dev/null. */
static bool same_file(const struct stat *a, const struct stat *b)
{
    return S_ISREG(a->st_mode) && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool cli_is_output(const struct stat *file)
{
    struct stat output;
    return fstat(STDOUT_FILENO, &output) == 0 && same_file(&output, file);
}

/* What a model's folder is read for; generated results may lie there too. */
static bool is_read_of_model(const char *name)
{
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "model.safetensors.index.json", "tokenizer.json"};
    static const char *const suffixes[] = {".safetensors", ".gguf"};
    const size_t length = strlen(name);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        const size_t suffix_length = strlen(suffixes[i]);
        if (length >= suffix_length && strcmp(name + length - suffix_length, suffixes[i]) == 0)
            return true;
    }
    return false;
}

/* The folder of a model, which may be one file; of a split one its other parts lie beside it. */
static DIR *open_model_folder(const char *model)
{
    DIR *folder = opendir(model);
    const char *slash = strrchr(model, '/');
    char path[PATH_MAX];
    if (folder)
        return folder;
    if (!slash)
        return opendir(".");
    const int length = (int)(slash - model) + 1;
    const int written = snprintf(path, sizeof path, "%.*s", length, model);
    return written > 0 && (size_t)written < sizeof path ? opendir(path) : NULL;
}

/* The model's file that it is, into *name. */
static bool is_model_file(const char *model, const struct stat *output, char *name,
                          size_t name_bytes)
{
    struct stat info;
    bool found = false;
    if (stat(model, &info) != 0) /* the name of a geometry */
        return false;
    if (same_file(output, &info)) {
        snprintf(name, name_bytes, "%s", model);
        return true;
    }
    DIR *folder = open_model_folder(model);
    const struct dirent *entry;
    while (folder && !found && (entry = readdir(folder))) {
        found = is_read_of_model(entry->d_name) &&
                fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 && same_file(output, &info);
        if (found)
            snprintf(name, name_bytes, "the model's %s", entry->d_name);
    }
    if (folder)
        closedir(folder);
    return found;
}

/* The input that it is, into *name. */
static bool is_input(const cli_options *options, const struct stat *output, char *name,
                     size_t name_bytes)
{
    const char *const files[] = {options->file, options->ids_file, options->api_key_file};
    struct stat info;
    bool reads_stdin = options->interactive;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const bool is_stdin = files[i] && strcmp(files[i], "-") == 0;
        reads_stdin = reads_stdin || is_stdin;
        if (files[i] && !is_stdin && stat(files[i], &info) == 0 && same_file(output, &info)) {
            snprintf(name, name_bytes, "'%s'", files[i]);
            return true;
        }
    }
    if (reads_stdin && fstat(STDIN_FILENO, &info) == 0 && same_file(output, &info)) {
        snprintf(name, name_bytes, "standard input");
        return true;
    }
    return options->engine.model && is_model_file(options->engine.model, output, name, name_bytes);
}

static int check_output(const cli_options *options, const char *what, const char *path)
{
    struct stat output;
    char name[300];
    if (stat(path, &output) != 0)
        return CLI_EXIT_OK;
    if (is_input(options, &output, name, sizeof name))
        return cli_error(options->command, "%s '%s' would replace %s, which is read; give another",
                         what, path, name);
    if (cli_is_output(&output))
        return cli_error(options->command, "%s '%s' is where standard output goes; give another",
                         what, path);
    return CLI_EXIT_OK;
}

static int check_stdout(const cli_options *options)
{
    struct stat output;
    char name[300];
    if (fstat(STDOUT_FILENO, &output) == 0 && is_input(options, &output, name, sizeof name))
        return cli_error(options->command,
                         "standard output goes to %s, which is read; send it elsewhere", name);
    return CLI_EXIT_OK;
}

/* The session's file, and those beside it that a save makes and removes. */
static int check_session(const cli_options *options)
{
    static const char *const suffixes[] = {KVF_SESSION_SUFFIX, KVF_SESSION_SUFFIX ".saving",
                                           KVF_LOCK_SUFFIX};
    char *folder = NULL;
    kvf_error error;
    int status =
        cli_result(options->command, kvf_session_folder(&options->engine, &folder, &error), &error);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes && status == CLI_EXIT_OK; i++) {
        char *path;
        status = cli_result(
            options->command,
            kvf_session_path(folder, options->engine.session, suffixes[i], &path, &error), &error);
        if (status == CLI_EXIT_OK)
            status = check_output(options, "the session's", path);
        free(path);
    }
    free(folder);
    return status;
}

int cli_overlap_check(const cli_options *options)
{
    int status = check_stdout(options);
    if (status == CLI_EXIT_OK && options->logits_file)
        status = check_output(options, "--logits", options->logits_file);
    if (status == CLI_EXIT_OK && options->svg_file)
        status = check_output(options, "--svg", options->svg_file);
    if (status == CLI_EXIT_OK && options->trace_file)
        status = check_output(options, "--trace", options->trace_file);
    if (status == CLI_EXIT_OK && options->engine.session)
        status = check_session(options);
    return status;
}

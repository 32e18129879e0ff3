/*
 * Runs a fuzz target on every file of a folder, or on the files given, with any compiler:
 *     test_fuzz_config tests/fuzz/corpus/config
 *     test_fuzz_config crash-5ba93c9d
 * Prints each name before it is run, so that the last one is the one that failed.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

/* The file's content, malloc'd; NULL with errno set. */
static uint8_t *read_file(const char *path, size_t *bytes)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    uint8_t *data = NULL;
    if (fstat(fileno(file), &info) == 0) {
        /* Not a byte more than there is: then a sanitizer sees the first one too many. */
        *bytes = (size_t)info.st_size;
        data = malloc(*bytes ? *bytes : 1);
    }
    if (data && fread(data, 1, *bytes, file) != *bytes) {
        free(data);
        data = NULL;
    }
    fclose(file);
    return data;
}

static bool replay_file(const char *path)
{
    size_t bytes = 0;
    uint8_t *data = read_file(path, &bytes);
    if (!data) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    printf("%s, %zu bytes\n", path, bytes);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    return true;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Adds to *n_run. A folder without files is a failure: nothing would be tested. */
static bool replay(const char *path, size_t *n_run)
{
    struct dirent **entries;
    const int n = scandir(path, &entries, is_visible, by_name);
    if (n < 0 && errno == ENOTDIR) {
        ++*n_run;
        return replay_file(path);
    }
    if (n <= 0) {
        fprintf(stderr, "%s: %s\n", path, n < 0 ? strerror(errno) : "has no inputs");
        return false;
    }
    bool good = true;
    for (int i = 0; i < n; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        good = good && replay_file(file);
        free(entries[i]);
    }
    free(entries);
    *n_run += (size_t)n;
    return good;
}

int main(int argc, char **argv)
{
    size_t n_run = 0;
    bool good = argc > 1;
    for (int i = 1; i < argc; i++)
        good = replay(argv[i], &n_run) && good;
    if (argc < 2)
        fprintf(stderr, "usage: %s FOLDER|FILE ..\n", argv[0]);
    printf("%zu inputs\n", n_run);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

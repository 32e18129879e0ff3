#include "fuzz.h"

#include "error.h"
#include "file/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void fuzz_broken(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: a promise is broken: %s\n", file, line, condition);
    abort();
}

void fuzz_check_error(kvf_status status, const kvf_error *error)
{
    const size_t bytes = strlen(error->message);
    FUZZ_REQUIRE(error->status == status);
    FUZZ_REQUIRE(strcmp(kvf_status_string(status), "unknown status") != 0);
    FUZZ_REQUIRE((bytes == 0) == (status == KVF_OK));
    for (size_t at = 0; at < bytes;) {
        const size_t n = kvf_utf8_bytes(error->message + at, bytes - at);
        FUZZ_REQUIRE(n > 0);
        FUZZ_REQUIRE((unsigned char)error->message[at] >= ' ' && error->message[at] != 0x7f);
        at += n;
    }
}

void fuzz_touch(const void *data, size_t bytes)
{
    const volatile unsigned char *c = data;
    for (size_t i = 0; i < bytes; i++)
        (void)c[i];
}

/* ---- Input in memory -------------------------------------------------------------- */

fuzz_guarded fuzz_guard(const void *data, size_t bytes)
{
    const size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    const size_t readable_bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    fuzz_guarded guarded = {.bytes = bytes, .pages_bytes = readable_bytes + page_bytes};
    guarded.pages =
        mmap(NULL, guarded.pages_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_REQUIRE(guarded.pages != MAP_FAILED);
    char *end = (char *)guarded.pages + readable_bytes;
    FUZZ_REQUIRE(mprotect(end, page_bytes, PROT_NONE) == 0);
    if (bytes > 0)
        memcpy(end - bytes, data, bytes);
    guarded.data = end - bytes;
    return guarded;
}

void fuzz_unguard(fuzz_guarded *guarded)
{
    munmap(guarded->pages, guarded->pages_bytes);
    *guarded = (fuzz_guarded){0};
}

bool fuzz_next_part(fuzz_part *rest, uint8_t separator, fuzz_part *part)
{
    *part = *rest;
    if (!rest->data)
        return false;
    const uint8_t *found = rest->bytes ? memchr(rest->data, separator, rest->bytes) : NULL;
    if (!found) {
        *rest = (fuzz_part){0};
        return true;
    }
    part->bytes = (size_t)(found - rest->data);
    rest->data = found + 1;
    rest->bytes -= part->bytes + 1;
    return true;
}

/* ---- Input in files --------------------------------------------------------------- */

enum { MAX_FILES = 8, PATH_BYTES = 256 };

/* A file that was written once; its descriptor is -1 while it is removed. */
static struct {
    char path[PATH_BYTES];
    int descriptor;
} files[MAX_FILES];
static size_t n_files;
static char folder[64];

static void remove_folder(void)
{
    for (size_t i = 0; i < n_files; i++)
        unlink(files[i].path);
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (*folder)
        return folder;
    /* In memory where there is such a place: thousands of files a second are written. */
    const bool in_memory = access("/dev/shm", W_OK) == 0;
    snprintf(folder, sizeof folder, "%s/kvfold-fuzz-XXXXXX", in_memory ? "/dev/shm" : "/tmp");
    FUZZ_REQUIRE(mkdtemp(folder));
    FUZZ_REQUIRE(atexit(remove_folder) == 0);
    return folder;
}

/* The entry of DIR/NAME in files. */
static size_t find_file(const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    for (size_t i = 0; i < n_files; i++)
        if (strcmp(files[i].path, path) == 0)
            return i;
    FUZZ_REQUIRE(n_files < MAX_FILES);
    memcpy(files[n_files].path, path, sizeof path);
    files[n_files].descriptor = -1;
    return n_files++;
}

void fuzz_write(const char *name, fuzz_part content)
{
    const size_t i = find_file(name);
    if (!content.data) {
        if (files[i].descriptor >= 0) {
            close(files[i].descriptor);
            unlink(files[i].path);
        }
        files[i].descriptor = -1;
        return;
    }
    if (files[i].descriptor < 0)
        files[i].descriptor = open(files[i].path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    FUZZ_REQUIRE(files[i].descriptor >= 0);
    FUZZ_REQUIRE(ftruncate(files[i].descriptor, (off_t)content.bytes) == 0);
    FUZZ_REQUIRE(pwrite(files[i].descriptor, content.data, content.bytes, 0) ==
                 (ssize_t)content.bytes);
}

/*
 * Opens files for tests in other languages. Reads a line and answers with a line:
 *     open PATH           ok TENSORS SURPLUS_BYTES       refused STATUS MESSAGE
 *     compare DIR FILE    ok WEIGHTS IGNORED_TENSORS     refused STATUS MESSAGE
 * compare finds every weight that the GGUF's config asks for in both and compares data.
 */
#include "file/tensor_set.h"
#include "model/weight_source.h"

#include <stdio.h>
#include <string.h>

static void answer_open(const char *path)
{
    kvf_tensor_set *set;
    kvf_error error;
    uint32_t n = 0;
    uint64_t surplus_bytes = 0;
    const kvf_tensor_file *file;
    if (kvf_tensor_set_open(path, &set, &error) != KVF_OK) {
        printf("refused %d %s\n", (int)error.status, error.message);
        return;
    }
    while (kvf_tensor_set_at(set, n))
        n++;
    for (uint32_t i = 0; (file = kvf_tensor_set_file(set, i)); i++)
        surplus_bytes += file->surplus_bytes;
    printf("ok %u %llu\n", n, (unsigned long long)surplus_bytes);
    kvf_tensor_set_close(set);
}

struct pair {
    kvf_tensor_set *sets[2];
    kvf_error error;
    uint32_t n_weights;
};

/* The entries of two token maps; the second's are narrower. */
static bool is_same_map(const kvf_weight_place *a, const kvf_weight_place *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        int64_t wide;
        int32_t narrow;
        memcpy(&wide, (const char *)a->data + 8 * i, sizeof wide);
        memcpy(&narrow, (const char *)b->data + 4 * i, sizeof narrow);
        if (wide != narrow)
            return false;
    }
    return true;
}

static kvf_status compare_weight(void *user, const kvf_weight *weight)
{
    struct pair *pair = user;
    kvf_weight_place a;
    kvf_weight_place b;
    kvf_status status = kvf_weight_locate(pair->sets[0], "first", weight, &a, &pair->error);
    if (status == KVF_OK)
        status = kvf_weight_locate(pair->sets[1], "second", weight, &b, &pair->error);
    if (status != KVF_OK)
        return status;
    const bool same = weight->kind == KVF_TENSOR_MAP
                          ? is_same_map(&a, &b, weight->shape[0] * weight->shape[1])
                          : a.tensor->type == b.tensor->type && a.bytes == b.bytes &&
                                memcmp(a.data, b.data, a.bytes) == 0;
    if (!same)
        snprintf(pair->error.message, sizeof pair->error.message, "%s differs", b.tensor->name);
    pair->n_weights++;
    return same ? KVF_OK : KVF_FILE_FORMAT;
}

static void answer_compare(const char *dir, const char *file)
{
    struct pair pair = {0};
    kvf_model_config config;
    kvf_status status = kvf_tensor_set_open(dir, &pair.sets[0], &pair.error);
    if (status == KVF_OK)
        status = kvf_tensor_set_open(file, &pair.sets[1], &pair.error);
    if (status == KVF_OK)
        status = kvf_config_from_gguf(pair.sets[1], &config, &pair.error);
    if (status == KVF_OK)
        status = kvf_weight_walk(&config, NULL, compare_weight, &pair);
    if (status == KVF_OK)
        printf("ok %u %u\n", pair.n_weights,
               kvf_weights_count_ignored(pair.sets[1], &config).n_tensors);
    else
        printf("refused %d %s\n", (int)status, pair.error.message);
    kvf_tensor_set_close(pair.sets[0]);
    kvf_tensor_set_close(pair.sets[1]);
}

int main(void)
{
    char line[8192];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        const char *what = strtok(line, " ");
        char *first = strtok(NULL, " ");
        char *second = strtok(NULL, " ");
        if (what && first && strcmp(what, "open") == 0)
            answer_open(first);
        else if (what && first && second)
            answer_compare(first, second);
        else
            return 1;
        fflush(stdout);
    }
    return 0;
}

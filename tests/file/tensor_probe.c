/*
 * Opens files for tests in other languages: reads a path a line and answers with a line,
 *     ok TENSORS SURPLUS_BYTES          or          refused STATUS MESSAGE
 */
#include "file/tensor_set.h"

#include <stdio.h>
#include <string.h>

int main(void)
{
    char path[4096];
    while (fgets(path, sizeof path, stdin)) {
        kvf_tensor_set *set;
        kvf_error error;
        uint32_t n = 0;
        uint64_t surplus_bytes = 0;
        const kvf_tensor_file *file;
        path[strcspn(path, "\n")] = '\0';
        if (kvf_tensor_set_open(path, &set, &error) != KVF_OK) {
            printf("refused %d %s\n", (int)error.status, error.message);
        } else {
            while (kvf_tensor_set_at(set, n))
                n++;
            for (uint32_t i = 0; (file = kvf_tensor_set_file(set, i)); i++)
                surplus_bytes += file->surplus_bytes;
            printf("ok %u %llu\n", n, (unsigned long long)surplus_bytes);
            kvf_tensor_set_close(set);
        }
        fflush(stdout);
    }
    return 0;
}

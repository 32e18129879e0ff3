/* Needle prompts: the number hidden in a long text must be found (tests/model/README.txt). */
#ifndef KVF_TESTS_MODEL_NEEDLE_H
#define KVF_TESTS_MODEL_NEEDLE_H

#include <cjson/cJSON.h>

#include "model/golden.h"

#define NEEDLE_DIGITS 5

/* Greedy digits after [256] + prompt; true when all five are right. */
static inline bool answer_needle(engine *e, const cJSON *needle, kvf_profile_id profile,
                                 uint32_t chunk_tokens)
{
    const char *prompt = cJSON_GetObjectItem(needle, "prompt")->valuestring;
    const char *expected = cJSON_GetObjectItem(needle, "expected")->valuestring;
    const size_t n = strlen(prompt) + 1;
    int32_t *ids = malloc(n * sizeof *ids);
    ids[0] = e->model->config.bos_token;
    for (size_t i = 1; i < n; i++)
        ids[i] = (unsigned char)prompt[i - 1];
    kvf_session *session = session_open(e, profile, false, n + NEEDLE_DIGITS, chunk_tokens);
    feed(e, session, ids, n, chunk_tokens, NULL);
    bool right = true;
    for (int i = 0; i < NEEDLE_DIGITS; i++) {
        const int32_t id = (int32_t)argmax(kvf_session_logits(session));
        right = right && id == expected[i];
        feed(e, session, &id, 1, 1, NULL);
    }
    kvf_session_close(session);
    free(ids);
    return right;
}

/* Runs all prompts of that length (at most `most`); returns how many are right, *n how many ran. */
static inline int count_needles(engine *e, int length, int most, kvf_profile_id profile,
                                uint32_t chunk_tokens, int *n)
{
    FILE *file = fopen(KVF_TEST_DATA "/needle_eval.jsonl", "r");
    assert_non_null(file);
    char *line = NULL;
    size_t capacity = 0;
    int right = 0;
    *n = 0;
    while (*n < most && getline(&line, &capacity, file) > 0) {
        cJSON *needle = cJSON_Parse(line);
        assert_non_null(needle);
        if (cJSON_GetObjectItem(needle, "length")->valueint == length) {
            right += answer_needle(e, needle, profile, chunk_tokens);
            ++*n;
        }
        cJSON_Delete(needle);
    }
    free(line);
    fclose(file);
    return right;
}

static inline void all_needles_are_found(engine *e, int length, kvf_profile_id profile)
{
    int n;
    const int right = count_needles(e, length, 1000, profile, 4096, &n);
    print_message("%d tokens, %s: %d of %d numbers found\n", length, kvf_profile_get(profile)->name,
                  right, n);
    assert_true(n >= 3);
    assert_int_equal(right, n);
}

#endif

/*
 * What leaves a store, without files: rules, each on a table of a few states, and whole
 * sequences of prompts, whose hits and tokens that had to be read are compared with the least
 * recently used leaving and with the best that any choice could have reached.
 *
 * usage: test_cache_eviction          (prints the table of docs/SESSIONS.md, then the tests)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/eviction.h"

/* ---- Rules ------------------------------------------------------------------------------ */

#define NONE KVF_NO_STATE
#define ROOM 100 /* of the tables below, which are full */

/* The one state that leaves for `fresh`, NONE where it is not stored. */
static size_t leaving(kvf_kept_state *states, size_t n, size_t parent, uint64_t bytes)
{
    const kvf_kept_state fresh = {.n_tokens = 1000, .bytes = bytes, .parent = parent};
    size_t found = NONE;
    const bool stored = kvf_choose_leaving(states, n, &fresh, ROOM);
    for (size_t i = 0; i < n; i++) {
        if (!states[i].leaves)
            continue;
        assert_true(stored);
        assert_int_equal(found, NONE);
        found = i;
    }
    return found;
}

static void test_what_was_used_least_recently_leaves(void **state)
{
    (void)state;
    kvf_kept_state all[] = {{10, 50, .stored = 1, .used = 9, .parent = NONE},
                            {20, 50, .stored = 2, .used = 3, .parent = NONE}};
    assert_int_equal(leaving(all, 2, NONE, 50), 1);
    all[0].used = 2;
    assert_int_equal(leaving(all, 2, NONE, 50), 0);
    all[0].used = 3; /* a folder that was copied without its times */
    assert_int_equal(leaving(all, 2, NONE, 50), 1);
    all[1].stays = true;
    assert_int_equal(leaving(all, 2, NONE, 50), 0);
}

/* 0 is what 1 begins with; 2 is another text, and the last that was used. */
static void test_a_prefix_that_proved_itself_outlives_what_is_longer(void **state)
{
    (void)state;
    for (uint64_t prefix_used = 1; prefix_used < 8; prefix_used++) {
        kvf_kept_state all[] = {{10, 30, .stored = 1, .used = prefix_used, .parent = NONE},
                                {20, 30, .stored = 3, .used = 7, .parent = 0},
                                {10, 40, .stored = 8, .used = 8, .parent = NONE}};
        assert_int_equal(leaving(all, 3, NONE, 30), prefix_used > 3 ? 1 : 0);
    }
    /* Through one in between, which was used after the longest was stored. */
    kvf_kept_state chain[] = {{10, 30, .stored = 1, .used = 4, .parent = NONE},
                              {20, 30, .stored = 3, .used = 6, .parent = 0},
                              {30, 40, .stored = 5, .used = 9, .parent = 1}};
    assert_int_equal(leaving(chain, 3, NONE, 30), 2);
}

static void test_what_a_run_made_or_others_share_stays(void **state)
{
    (void)state;
    /* A conversation goes on: the parent leaves when nothing else is left, not before. */
    kvf_kept_state all[] = {{10, 50, .stored = 1, .used = 9, .parent = NONE},
                            {10, 50, .stored = 2, .used = 8, .parent = NONE}};
    assert_int_equal(leaving(all, 2, 0, 50), 1);
    assert_int_equal(leaving(all, 1, 0, 80), 0);
    all[0].shared = true;
    assert_int_equal(leaving(all, 1, 0, 80), NONE);
    all[0].shared = false;
    all[0].made_now = true;
    assert_int_equal(leaving(all, 1, 0, 80), NONE);
    assert_int_equal(leaving(all, 1, NONE, 80), 0); /* but not for another text */
}

static void test_what_finds_no_room_removes_nothing(void **state)
{
    (void)state;
    kvf_kept_state all[] = {{10, 20, .stored = 1, .used = 1, .parent = NONE},
                            {10, 60, .stored = 2, .used = 2, .parent = NONE, .stays = true},
                            {10, 20, .stored = 3, .used = 3, .parent = NONE}};
    kvf_kept_state fresh = {.bytes = ROOM + 1, .parent = NONE};
    assert_false(kvf_choose_leaving(all, 3, &fresh, ROOM));
    assert_false(all[0].kept || all[1].kept || all[2].kept);
    fresh.bytes = 41;
    assert_false(kvf_choose_leaving(all, 3, &fresh, ROOM));
    assert_true(all[1].kept && !all[0].kept && !all[2].kept);
    assert_false(all[0].leaves || all[1].leaves || all[2].leaves);
    fresh.bytes = 40;
    assert_true(kvf_choose_leaving(all, 3, &fresh, ROOM));
    assert_true(all[0].leaves && all[2].leaves);
    fresh.bytes = 0; /* a table that holds more than it should */
    all[1].bytes = UINT32_MAX;
    assert_false(kvf_choose_leaving(all, 3, &fresh, ROOM));
}

/* ---- Sequences of prompts ------------------------------------------------------------------ */

/*
 * A token here stands for ten. A text is a list of blocks, each named by a letter; that of an
 * answer is in lower case. So "SQq" is a system prompt, a question and its answer.
 */
enum { BLOCK = 40, MOST_BLOCKS = 24, MOST_PROMPTS = 64, MOST_STATES = 512 };
enum { WORTH = 13 };            /* as the command: 128 tokens more than what is there */
enum { STATE_FIXED_BYTES = 8 }; /* of a state besides a byte a token: rings, logits */

typedef struct text {
    uint16_t tokens[MOST_BLOCKS * BLOCK];
    uint32_t n;
    uint32_t n_prompt; /* what is behind it is the answer */
} text;

typedef struct sequence {
    const char *name;
    text prompts[MOST_PROMPTS];
    size_t n;
    bool answers; /* that are worth a state */
} sequence;

/* The blocks' tokens: those of equal names are equal, a number makes one of its own. */
static void add_block(text *t, unsigned name, uint32_t n, bool prompt)
{
    for (uint32_t i = 0; i < n; i++)
        t->tokens[t->n++] = (uint16_t)(name * 64 + i % 64);
    if (prompt)
        t->n_prompt = t->n;
}

static text *next_text(sequence *s)
{
    assert_true(s->n < MOST_PROMPTS);
    text *t = &s->prompts[s->n++];
    memset(t, 0, sizeof *t);
    return t;
}

/* A conversation: each prompt is all that was said and a new turn. */
static void add_turns(sequence *s, unsigned base, uint32_t first, uint32_t n_turns, bool answers)
{
    for (uint32_t turn = 0; turn < n_turns; turn++) {
        text *t = next_text(s);
        add_block(t, base, first, true);
        for (uint32_t i = 0; i <= turn; i++) {
            add_block(t, base + 1 + 2 * i, 20, true);
            if (answers)
                add_block(t, base + 2 + 2 * i, 20, i < turn);
        }
        if (answers)
            t->n_prompt = t->n - 20;
    }
}

/* A question of its own about a document. */
static void add_question(sequence *s, unsigned document, uint32_t document_tokens,
                         unsigned question, uint32_t question_tokens)
{
    text *t = next_text(s);
    add_block(t, document, document_tokens, true);
    add_block(t, question, question_tokens, true);
}

/* ---- A store that is a table ---------------------------------------------------------------- */

typedef struct held {
    kvf_kept_state state;
    const text *text; /* its first n_tokens */
} held;

typedef bool policy(kvf_kept_state *states, size_t n, const kvf_kept_state *fresh,
                    uint64_t max_bytes);

typedef struct model {
    held held[MOST_STATES];
    size_t n;
    uint64_t clock;
    uint64_t begun; /* the run */
    uint64_t max_bytes;
    policy *choose;
    uint32_t n_hits;
    uint64_t n_read;
} model;

/* As the store was before: used least recently, whatever it is. */
static bool choose_oldest(kvf_kept_state *states, size_t n, const kvf_kept_state *fresh,
                          uint64_t max_bytes)
{
    uint64_t bytes = fresh->bytes;
    for (size_t i = 0; i < n; i++) {
        states[i].leaves = false;
        bytes += states[i].bytes;
    }
    if (fresh->bytes > max_bytes)
        return false;
    while (bytes > max_bytes) {
        size_t oldest = NONE;
        for (size_t i = 0; i < n; i++)
            if (!states[i].leaves && (oldest == NONE || states[i].used < states[oldest].used))
                oldest = i;
        states[oldest].leaves = true;
        bytes -= states[oldest].bytes;
    }
    return true;
}

static uint32_t common(const text *a, uint32_t n_a, const text *b, uint32_t n_b)
{
    uint32_t i = 0;
    while (i < n_a && i < n_b && a->tokens[i] == b->tokens[i])
        i++;
    return i;
}

static uint32_t tokens_of(const held *h)
{
    return (uint32_t)h->state.n_tokens;
}

static bool begins(const held *shorter, const text *t, uint32_t n)
{
    const uint32_t n_tokens = tokens_of(shorter);
    return n_tokens <= n && common(shorter->text, n_tokens, t, n) == n_tokens;
}

/* The longest other state that the first n tokens begin with, shorter than them. */
static size_t parent_of(const model *m, const text *t, uint32_t n)
{
    size_t parent = NONE;
    for (size_t i = 0; i < m->n; i++)
        if (tokens_of(&m->held[i]) < n && begins(&m->held[i], t, n) &&
            (parent == NONE || tokens_of(&m->held[i]) > tokens_of(&m->held[parent])))
            parent = i;
    return parent;
}

/* What src/cache/store.c does when a state is put. */
static void put(model *m, const text *t, uint32_t n)
{
    kvf_kept_state table[MOST_STATES];
    kvf_kept_state fresh = {.n_tokens = n, .bytes = STATE_FIXED_BYTES + n};
    for (size_t i = 0; i < m->n; i++) {
        held *h = &m->held[i];
        h->state.parent = parent_of(m, h->text, tokens_of(h));
        h->state.made_now = h->state.stored > m->begun;
        h->state.stays = false;
        table[i] = h->state;
        if (tokens_of(h) > n && common(h->text, tokens_of(h), t, n) == n)
            fresh.shared = true;
    }
    fresh.parent = parent_of(m, t, n);
    const bool stored = m->choose(table, m->n, &fresh, m->max_bytes);
    if (stored)
        fresh.stored = fresh.used = ++m->clock;
    if (fresh.parent != NONE && m->held[fresh.parent].state.shared)
        m->held[fresh.parent].state.used = ++m->clock;
    size_t kept = 0;
    for (size_t i = 0; i < m->n; i++)
        if (!table[i].leaves)
            m->held[kept++] = m->held[i];
    m->n = kept;
    if (stored)
        m->held[m->n++] = (held){fresh, t};
}

/* What src/cli/saver.c does with a prompt: *n_puts lengths to store; the tokens that are found. */
static uint32_t plan_run(const held *all, size_t n_all, const text *t, uint32_t puts[3],
                         size_t *n_puts, size_t *found_at)
{
    uint32_t found = 0;
    uint32_t shared = 0;
    *found_at = NONE;
    *n_puts = 0;
    for (size_t i = 0; i < n_all; i++) {
        const uint32_t n = common(all[i].text, tokens_of(&all[i]), t, t->n_prompt);
        shared = n > shared ? n : shared;
        if (n == tokens_of(&all[i]) && n > found) {
            found = n;
            *found_at = i;
        }
    }
    uint32_t last = found;
    if (shared >= found + WORTH && shared < t->n_prompt)
        puts[(*n_puts)++] = last = shared;
    if (t->n_prompt >= last + WORTH)
        puts[(*n_puts)++] = last = t->n_prompt;
    if (t->n >= last + WORTH)
        puts[(*n_puts)++] = t->n;
    return found;
}

static void run_prompt(model *m, const text *t)
{
    uint32_t puts[3];
    size_t n_puts;
    size_t at;
    const uint32_t found = plan_run(m->held, m->n, t, puts, &n_puts, &at);
    m->begun = ++m->clock;
    m->n_hits += found > 0;
    m->n_read += t->n_prompt - found;
    if (found > 0) {
        m->held[at].state.used = m->clock;
        for (size_t i = 0; i < m->n; i++)
            if (tokens_of(&m->held[i]) > found && begins(&m->held[at], m->held[i].text, found))
                m->held[at].state.shared = true;
        if (found == t->n_prompt)
            m->held[at].state.shared = true;
    }
    for (size_t i = 0; i < n_puts; i++)
        put(m, t, puts[i]);
}

static void run_sequence(const sequence *s, uint64_t max_bytes, policy *choose, model *m)
{
    memset(m, 0, sizeof *m);
    m->max_bytes = max_bytes;
    m->choose = choose;
    for (size_t i = 0; i < s->n; i++) {
        run_prompt(m, &s->prompts[i]);
        uint64_t bytes = 0;
        for (size_t j = 0; j < m->n; j++)
            bytes += m->held[j].state.bytes;
        assert_true(bytes <= max_bytes);
    }
}

/* ---- The best that is possible --------------------------------------------------------------- */

/*
 * All choices at every put, remembered by what is held before a prompt: fewest tokens read.
 * A set of states is a sorted list of (prompt, length), of few, as only few fit.
 */
enum { MOST_HELD = 4, MOST_SETS = 1 << 16 };

typedef struct set {
    held held[MOST_HELD + 1];
    size_t n;
} set;

typedef struct memo {
    size_t prompt;
    set set;
    uint64_t best;
} memo;

typedef struct search {
    const sequence *sequence;
    uint64_t max_bytes;
    memo *memos;
    size_t n_memos;
} search;

static uint64_t best_from(search *s, size_t prompt, const set *now);

static uint64_t best_of_puts(search *s, size_t prompt, const set *now, const uint32_t *puts,
                             size_t n_puts)
{
    if (n_puts == 0)
        return best_from(s, prompt + 1, now);
    set with = *now;
    const text *t = &s->sequence->prompts[prompt];
    with.held[with.n++] = (held){{.n_tokens = puts[0], .bytes = STATE_FIXED_BYTES + puts[0]}, t};
    uint64_t best = UINT64_MAX;
    for (unsigned keep = 0; keep < 1u << with.n; keep++) {
        set kept = {.n = 0};
        uint64_t bytes = 0;
        for (size_t i = 0; i < with.n; i++)
            if (keep >> i & 1) {
                kept.held[kept.n++] = with.held[i];
                bytes += with.held[i].state.bytes;
            }
        if (bytes > s->max_bytes || kept.n > MOST_HELD)
            continue;
        const uint64_t read = best_of_puts(s, prompt, &kept, puts + 1, n_puts - 1);
        best = read < best ? read : best;
    }
    return best;
}

static bool same_set(const set *a, const set *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; i < a->n && same; i++) {
        same = false; /* in any order */
        for (size_t j = 0; j < b->n; j++)
            same = same || (tokens_of(&a->held[i]) == tokens_of(&b->held[j]) &&
                            begins(&a->held[i], b->held[j].text, tokens_of(&b->held[j])));
    }
    return same;
}

static uint64_t best_from(search *s, size_t prompt, const set *now)
{
    uint32_t puts[3];
    size_t n_puts;
    size_t at;
    if (prompt == s->sequence->n)
        return 0;
    for (size_t i = 0; i < s->n_memos; i++)
        if (s->memos[i].prompt == prompt && same_set(&s->memos[i].set, now))
            return s->memos[i].best;
    const text *t = &s->sequence->prompts[prompt];
    const uint32_t found = plan_run(now->held, now->n, t, puts, &n_puts, &at);
    const uint64_t best = t->n_prompt - found + best_of_puts(s, prompt, now, puts, n_puts);
    assert_true(s->n_memos < MOST_SETS);
    s->memos[s->n_memos++] = (memo){prompt, *now, best};
    return best;
}

static uint64_t best_read(const sequence *whole, uint64_t max_bytes)
{
    search s = {whole, max_bytes, malloc(MOST_SETS * sizeof(memo)), 0};
    const set nothing = {.n = 0};
    assert_non_null(s.memos);
    const uint64_t best = best_from(&s, 0, &nothing);
    free(s.memos);
    return best;
}

/* ---- The sequences ----------------------------------------------------------------------------
 */

static uint64_t random_below(uint64_t *seed, uint64_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (*seed >> 33) % n;
}

static void make_sequences(sequence *all, size_t *n)
{
    uint64_t seed = 7;
    sequence *s = all;
    s->name = "a conversation";
    add_turns(s++, 10, 60, 8, false);
    s->name = "a conversation with long answers";
    s->answers = true;
    add_turns(s++, 10, 60, 7, true);
    s->name = "questions about one document";
    for (unsigned i = 0; i < 10; i++)
        add_question(s, 1, 100, 10 + i, 40);
    s++;
    s->name = "questions about two documents in turn";
    for (unsigned i = 0; i < 12; i++)
        add_question(s, 1 + i % 2, 100, 10 + i, 40);
    s++;
    s->name = "one question again and again";
    for (unsigned i = 0; i < 8; i++) {
        add_question(s, 1, 100, 10, 40);
        add_block(&s->prompts[s->n - 1], 11, 40, false);
    }
    s++;
    s->name = "two conversations in turn, one system prompt";
    for (unsigned i = 0; i < 10; i++) {
        text *t = next_text(s);
        add_block(t, 1, 40, true);
        for (unsigned turn = 0; turn <= i / 2; turn++)
            add_block(t, 10 + 20 * (i % 2) + turn, 30, true);
    }
    s++;
    s->name = "one document, other prompts in between";
    for (unsigned i = 0; i < 12; i++)
        add_question(s, i % 3 == 2 ? 100 + i : 1, 100, 10 + i, 30);
    s++;
    s->name = "prompts that never come again";
    for (unsigned i = 0; i < 8; i++)
        add_question(s, 1 + i, 100, 20 + i, 40);
    s++;
    s->name = "five documents at random";
    for (unsigned i = 0; i < 14; i++)
        add_question(s, 1 + (unsigned)random_below(&seed, 5), 100, 10 + i, 40);
    s++;
    s->name = "a tree of texts at random";
    for (unsigned i = 0; i < 12; i++) {
        text *t = next_text(s);
        add_block(t, 1, 30, true);
        for (unsigned depth = 0, name = 2; depth < 4; depth++) {
            name = 2 * name + (unsigned)random_below(&seed, 2);
            add_block(t, name, 30, true);
        }
    }
    s++;
    s->name = "against the least recently used: three in a circle";
    for (unsigned i = 0; i < 12; i++)
        add_question(s, 1 + i % 3, 100, 10 + i % 3, 20);
    s++;
    *n = (size_t)(s - all);
}

/* Room for the longest state of a sequence, once, twice or three times. */
static uint64_t room_bytes(const sequence *s, uint64_t room)
{
    uint64_t longest = 0;
    for (size_t i = 0; i < s->n; i++)
        longest = s->prompts[i].n > longest ? s->prompts[i].n : longest;
    return room * (longest + STATE_FIXED_BYTES);
}

static void test_sequences_against_the_oldest_and_the_best(void **state)
{
    (void)state;
    static sequence all[16];
    static model old;
    static model now;
    size_t n;
    make_sequences(all, &n);
    printf("| prompts | room for | found: oldest leaves | now | read: oldest leaves | now | least "
           "possible |\n|---|---:|---:|---:|---:|---:|---:|\n");
    for (size_t i = 0; i < n; i++)
        for (uint64_t room = 1; room <= 3; room++) {
            const uint64_t max_bytes = room_bytes(&all[i], room);
            run_sequence(&all[i], max_bytes, choose_oldest, &old);
            run_sequence(&all[i], max_bytes, kvf_choose_leaving, &now);
            const uint64_t best = best_read(&all[i], max_bytes);
            printf("| %zu: %s | %d | %u | %u | %d | %d | %d |\n", all[i].n, all[i].name, (int)room,
                   old.n_hits, now.n_hits, 10 * (int)old.n_read, 10 * (int)now.n_read,
                   10 * (int)best);
            assert_true(now.n_hits >= old.n_hits);
            /* What was read of a prompt stays where there is no room for its answer too. */
            const uint64_t answers = all[i].answers && room == 1 ? 20 * (all[i].n - 1) : 0;
            assert_true(now.n_read <= old.n_read + answers);
            assert_true(now.n_read >= best);
        }
}

/* Prompts that go on, branch, come again or are new, each as it falls. */
static void make_random_sequence(uint64_t seed, sequence *s)
{
    memset(s, 0, sizeof *s);
    const uint64_t n_bases = 1 + random_below(&seed, 4);
    for (unsigned i = 0; i < 40; i++) {
        text *t = next_text(s);
        const text *before = i > 0 ? &s->prompts[random_below(&seed, i)] : NULL;
        const uint64_t sort = random_below(&seed, 8);
        if (before && sort < 5) {
            *t = *before;
            if (sort < 2) /* a part of it, and something else */
                t->n = 20 + (uint32_t)random_below(&seed, before->n - 20);
        } else {
            add_block(t, 1 + (unsigned)random_below(&seed, n_bases), 40, true);
        }
        if (t->n < MOST_BLOCKS * BLOCK - 100 && sort != 4)
            add_block(t, 20 + i, 15 + (uint32_t)random_below(&seed, 40), true);
        t->n_prompt = t->n;
    }
}

static void test_random_sequences_lose_nothing_in_all(void **state)
{
    (void)state;
    static sequence s;
    static model old;
    static model now;
    for (uint64_t room = 1; room <= 6; room++) {
        uint64_t hits[2] = {0, 0};
        uint64_t read[2] = {0, 0};
        for (uint64_t seed = 1; seed <= 100; seed++) {
            make_random_sequence(seed, &s);
            const uint64_t max_bytes = room_bytes(&s, room) / 2;
            run_sequence(&s, max_bytes, choose_oldest, &old);
            run_sequence(&s, max_bytes, kvf_choose_leaving, &now);
            hits[0] += old.n_hits;
            hits[1] += now.n_hits;
            read[0] += old.n_read;
            read[1] += now.n_read;
        }
        printf("room for %.1f: found %d, now %d of 4000; read %d, now %d\n", (double)room / 2,
               (int)hits[0], (int)hits[1], 10 * (int)read[0], 10 * (int)read[1]);
        assert_true(hits[1] >= hits[0] && read[1] <= read[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_used_least_recently_leaves),
        cmocka_unit_test(test_a_prefix_that_proved_itself_outlives_what_is_longer),
        cmocka_unit_test(test_what_a_run_made_or_others_share_stays),
        cmocka_unit_test(test_what_finds_no_room_removes_nothing),
        cmocka_unit_test(test_sequences_against_the_oldest_and_the_best),
        cmocka_unit_test(test_random_sequences_lose_nothing_in_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

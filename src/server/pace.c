#include "server/pace.h"

#include <stdlib.h>

/* Nobody waits for a token: what a cancelled request, or a new one, may have to wait. */
static const double idle_piece_seconds = 0.2;
/* Before anything is measured. */
enum { FIRST_PIECE = 16, FIRST_IDLE_PIECE = 128 };
/* Steps with a piece between two that measure answers alone: a thirty-second part of the time. */
enum { MIXED_STEPS = 16 };
static const double recent_seconds = 1.0;
/* Of a new measurement; the others are those before it. */
static const double new_share = 0.3;

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Steps of so many answers and of so many others take about as long. */
static bool is_like(uint32_t a, uint32_t b)
{
    return a <= 2 * (uint64_t)b && b <= 2 * (uint64_t)a;
}

double kvf_pace_median(const kvf_pace *pace, uint32_t n_answers, double now_seconds)
{
    double recent[KVF_PACE_STEPS];
    uint32_t n = 0;
    const uint64_t held = pace->n_steps < KVF_PACE_STEPS ? pace->n_steps : KVF_PACE_STEPS;
    for (uint64_t i = 1; i <= held; i++) {
        const uint64_t at = (pace->n_steps - i) % KVF_PACE_STEPS;
        if (n > 0 && now_seconds - pace->steps[at].at_seconds > recent_seconds)
            break;
        if (n_answers == 0 || is_like(n_answers, pace->steps[at].n_answers))
            recent[n++] = pace->steps[at].seconds;
    }
    qsort(recent, n, sizeof *recent, compare);
    return n > 0 ? recent[n / 2] : 0;
}

uint32_t kvf_pace_piece(const kvf_pace *pace, uint32_t n_answers, uint32_t most, double now_seconds)
{
    double wanted = n_answers > 0 ? FIRST_PIECE : FIRST_IDLE_PIECE;
    double target = idle_piece_seconds;
    if (n_answers > 0) {
        target = kvf_pace_median(pace, n_answers, now_seconds);
        if (!(target > 0) || pace->n_mixed >= MIXED_STEPS)
            return 0;
    }
    if (pace->token_seconds > 0)
        wanted = target / pace->token_seconds;
    /* A wrong measurement is to cost one step, not a second. */
    if (n_answers > 0 && wanted > 2.0 * pace->last_piece + FIRST_PIECE)
        wanted = 2.0 * pace->last_piece + FIRST_PIECE;
    if (wanted >= (double)most)
        return most;
    return wanted < 1 ? 1 : (uint32_t)wanted;
}

void kvf_pace_add(kvf_pace *pace, uint32_t n_answers, uint32_t n_piece, double seconds,
                  double now_seconds)
{
    if (n_piece == 0) {
        if (n_answers == 0)
            return;
        pace->steps[pace->n_steps % KVF_PACE_STEPS].at_seconds = now_seconds;
        pace->steps[pace->n_steps % KVF_PACE_STEPS].seconds = seconds;
        pace->steps[pace->n_steps % KVF_PACE_STEPS].n_answers = n_answers;
        pace->n_steps++;
        pace->n_mixed = 0;
        return;
    }
    const double answers = n_answers > 0 ? kvf_pace_median(pace, n_answers, now_seconds) : 0;
    pace->last_piece = n_piece;
    /* A piece costs something, whatever the clock says. */
    const double piece = seconds - answers > 0.1 * seconds ? seconds - answers : 0.1 * seconds;
    const double token = piece / n_piece;
    pace->n_mixed += n_answers > 0;
    pace->token_seconds =
        pace->token_seconds > 0 ? (1 - new_share) * pace->token_seconds + new_share * token : token;
}

/*
 * How much of a prompt a step may take along, so that what answers meanwhile does not stop: about
 * as long as the answers' own part of the step. Internal; no clock and no model of its own.
 */
#ifndef KVF_SERVER_PACE_H
#define KVF_SERVER_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { KVF_PACE_STEPS = 512 };

typedef struct kvf_pace {
    struct {
        double at_seconds; /* when it ended */
        double seconds;
        uint32_t n_answers;
    } steps[KVF_PACE_STEPS]; /* of answers alone; a ring */
    uint64_t n_steps;
    uint32_t n_mixed; /* steps with a piece since the last without */
    uint32_t last_piece;
    double token_seconds; /* of a prompt in a piece; 0: not measured yet */
} kvf_pace;

/*
 * The median of steps of answers alone within the last second, else of the last one; 0: none. Of
 * those alone that had about as many answers, half to twice; n_answers 0: of all.
 */
double kvf_pace_median(const kvf_pace *pace, uint32_t n_answers, double now_seconds);
/*
 * Tokens of a prompt for the next step, at least 1 and at most `most`, where n_answers tokens of
 * answers go along; 0 where the step should be without, to be measured.
 */
uint32_t kvf_pace_piece(const kvf_pace *pace, uint32_t n_answers, uint32_t most,
                        double now_seconds);
/* A step is over that had n_answers tokens of answers and n_piece of a prompt. */
void kvf_pace_add(kvf_pace *pace, uint32_t n_answers, uint32_t n_piece, double seconds,
                  double now_seconds);

#endif

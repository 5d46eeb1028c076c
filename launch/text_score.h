#ifndef LAUNCH_TEXT_SCORE_H
#define LAUNCH_TEXT_SCORE_H

/* Scores the tokens of a text through the engine: the prompt of each window is prefilled, the tokens to score are decoded by
 * force, as an answer is, so that cached blocks are read in whatever form they are kept. Windows run as a batch; results
 * depend on none of its order. Rank 0. */

#include "launch/session.h"
#include "launch/text_windows.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct TextScore {
    const int32_t *tokens; /* of the text */
    const TextWindows *windows;
    int32_t head; /* token in front of each window; -1: none */
    /* Logits that scored token `index` (over all windows) is taken from; optional. Windows take turns, so indices do not rise.
     * What it returns but STATUS_OK ends the run. */
    Status (*on_logits)(void *user, uint64_t index, const float *logits);
    void *user;
} TextScore;

/* Log-probability of each scored token → out_logprobs [windows->scored_count]. STATUS_STOPPED when it was asked to stop. */
Status text_score_run(Session *session, const TextScore *score, float *out_logprobs);

SPILLWAY_EXTERN_C_END

#endif

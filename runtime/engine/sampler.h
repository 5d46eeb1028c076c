#ifndef RUNTIME_ENGINE_SAMPLER_H
#define RUNTIME_ENGINE_SAMPLER_H

/* Logits to a token. Order of steps: logit bias; repetition, then presence and frequency penalties; (logprobs are
 * of the untouched logits); greedy when temperature is 0, else divide by temperature; top-k; softmax; top-p; min-p; draw. Ties go to
 * the lower id. The draw is Philox(seed, stream = index of the generated token): the same request samples the same tokens
 * wherever it runs. Pure function of its inputs; any thread with a workspace of its own. */

#include "runtime/engine/request.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct SamplerWorkspace SamplerWorkspace; /* scratch for one vocabulary size */

Status sampler_workspace_create(SamplerWorkspace **out, uint32_t vocab_count);
void sampler_workspace_destroy(SamplerWorkspace *workspace);

typedef struct SamplerInput {
    const float *logits; /* [vocab_count] not modified */
    uint32_t vocab_count;
    const SamplingOptions *options;
    const int32_t *prompt; /* [prompt_count] for the repetition penalty */
    uint32_t prompt_count;
    const int32_t *generated; /* [generated_count] */
    uint32_t generated_count;
    const int32_t
        *banned; /* [banned_count] tokens that may not come now (end of text before min_tokens) */
    uint32_t banned_count;
    const int32_t *forced; /* the token that must come, whatever its probability; NULL: drawn */
} SamplerInput;

typedef struct SamplerOutput {
    int32_t token;
    float logprob; /* 0 unless wanted or forced */
    TokenLogprob top[SAMPLING_LOGPROBS_MAX];
    uint32_t top_count;
} SamplerOutput;

/* E-NAN-LOGITS when a logit is NaN or +inf, or all are -inf. */
Status sampler_sample(SamplerWorkspace *workspace, const SamplerInput *input, SamplerOutput *out);

SPILLWAY_EXTERN_C_END

#endif

#ifndef LAUNCH_SESSION_H
#define LAUNCH_SESSION_H

/* What every command with a model shares: the ranks come up and agree, each opens the weights and its share of the
 * engine, rank 0 does the command's work while the others follow, and all end with one exit code.
 *
 *     ranks_start → weights, tokenizer, template → prepare (rank 0) → engine_open → work (rank 0) → stop
 *
 * A command that compares has a second engine before that one: see reference_work.
 *
 * After each part that can fail on one rank alone the ranks vote, so that nobody waits for a rank that is gone. */

#include "launch/api.h"
#include "launch/kv_sizes.h"
#include "launch/kv_trace.h"
#include "launch/rank_place.h"
#include "launch/ranks.h"
#include "launch/settings.h"
#include "launch/tier_socket.h"
#include "launch/weight_sizes.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/planner.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Session {
    const Settings *settings;
    Ranks ranks;
    RankPlace place; /* where this rank belongs on its node */
    bool bound;      /* and is */
    Weights *weights;
    Tokenizer *tokenizer;     /* NULL when the plan does without text and the model has none */
    const ChatTemplate *chat; /* NULL: none, or one that is not known */
    char chat_refusal[512];   /* why the model's own cannot be used; "" when it has none */
    Engine *engine;
    IoFaultPlan faults;        /* --fault; empty without */
    IoFaultPlan weight_faults; /* the same for files of streamed weights */
    KvSizes kv_sizes;
    WeightSizes weight_sizes;
    KvTrace kv_trace;              /* --kv-trace */
    KvTraceWriter kv_trace_writer; /* --kv-trace-out, rank 0 */
    PlanChoice plan;               /* --placement, rank 0 */
    PlanShape plan_shape;
    PlanMachine plan_machine;
    bool plan_predicts;     /* its speeds are of this machine */
    TierSocket tier_socket; /* rank 0, where spillway tiers asks; may be closed */
    SamplingOptions
        sampling; /* what a request has that says nothing: flags, else the model's own */
    /* at the same time, as prepare knows; 0: any number. KV budgets are made for so many */
    bool runs_together; /* as the plan says */
    uint64_t request_count_max;
    double started_seconds;                         /* monotonic_seconds when the command began */
    double loaded_seconds;                          /* when the engine was open */
    double reference_seconds;                       /* that reference_work took, with its engine */
    double drain_seconds;                           /* when a drain was first asked for; 0: not */
    uint64_t lines_ok, lines_failed, lines_skipped; /* for the summary; the command counts */
    uint64_t decode_steps, decode_tokens; /* steps without prompt rows, and what they generated */
} Session;

typedef struct SessionPlan {
    bool needs_text; /* the model must have a tokenizer */
    /* Rank 0, before the weights are packed: opens files, so that a wrong one is told at once. Optional. */
    Status (*prepare)(Session *session, void *user);
    /* Rank 0, before work, with an engine of its own: the same weights and arithmetic, but what saves memory of keys and values is
     * as if it had not been asked for, and the kernels are those of --reference-isa. Optional. */
    Status (*reference_work)(Session *session, void *user);
    /* Rank 0, with the engine open. */
    Status (*work)(Session *session, void *user);
    bool runs_together;     /* --max-num-seqs at once, also where KV budgets make them dear */
    uint32_t prompt_tokens; /* of all requests, for --placement; 0: not known */
    bool tells_summary;     /* print the summary at the end, unless --quiet */
    void *user;
} SessionPlan;

/* Runs the plan on this rank and returns the exit code. */
int session_run(const Settings *settings, const SessionPlan *plan);

/* engine_step, with the books that the summary needs. Rank 0. */
Status session_step(Session *session, bool *out_idle);
/* Steps until the engine is idle. STATUS_STOPPED, raised, when it went idle because a stop was asked for. Rank 0. */
Status session_run_until_idle(Session *session);

/* A request for these tokens with what the settings say about sampling and length; --max-tokens that was not given is
 * shortened to what the context leaves. The caller sets the sink. */
void session_request(const Session *session, const TokenList *tokens, Request *out);

/* One prompt as a chat (template, --system) or as it is. Tokens are the caller's to free. E-REQUEST. */
Status session_encode_prompt(const Session *session, const char *text, size_t text_bytes,
                             TokenList *out);

/* What API requests take when they say nothing. Valid as long as the settings. */
ApiDefaults session_api_defaults(const Session *session);

/* A file name for people: "SmolLM2-135M-Instruct.Q4_1", or --served-model-name. Static storage. */
const char *session_model_name(const Session *session);

SPILLWAY_EXTERN_C_END

#endif

#include "launch/plan_settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "launch/machine_file.h"
#include "launch/machine_probe.h"

static Status refuse_text(const char *text) {
    FAIL(PLACEMENT,
         "--placement %.80s: auto, or six numbers from 0 to 100 with commas between: weights on "
         "device and host, keys and values on device and host, activations on device and host; "
         "what a pair leaves of 100 is on disk",
         text);
}

Status plan_settings_percent(const char *text, double out[PLAN_PART_COUNT], bool *out_given) {
    double percent[PLAN_PART_COUNT];
    const char *at = text;
    *out_given = false;
    if (!text || strcmp(text, "auto") == 0) return STATUS_OK;
    for (int part = 0; part < PLAN_PART_COUNT; part++) {
        char *end;
        bool digit = (*at >= '0' && *at <= '9') || *at == '.';
        percent[part] = digit ? strtod(at, &end) : NAN;
        if (!(percent[part] >= 0 && percent[part] <= 100)) return refuse_text(text);
        if (*end != (part + 1 < PLAN_PART_COUNT ? ',' : 0)) return refuse_text(text);
        at = end + 1;
        if (part % 2 == 1 && percent[part - 1] + percent[part] > 100) return refuse_text(text);
    }
    memcpy(out, percent, sizeof percent);
    *out_given = true;
    return STATUS_OK;
}

Status plan_settings_machine(const Settings *settings, const PlanRanks *ranks, PlanMachine *out) {
    if (settings->machine) {
        TRY(machine_file_read(settings->machine, out));
        if (ranks->rank_count > 0) out->rank_count = ranks->rank_count;
        if (ranks->node_count > 0) out->node_count = ranks->node_count;
        return machine_file_check(out, settings->machine);
    }
    const MachineProbeOptions options = {
        .cpu_isa = settings->cpu_isa,
        .thread_count = ranks->thread_count,
        .rank_count = ranks->rank_count > 0 ? ranks->rank_count : 1,
        .node_count = ranks->node_count > 0 ? ranks->node_count : 1,
        .directories = (const char *const *)settings->kv_nvme_dir.items,
        .directory_count = (uint32_t)settings->kv_nvme_dir.count,
        .io_engine = settings->io,
        .io_depth = (uint32_t)settings->io_depth,
        .memory_limit_bytes = (double)settings->memory_limit.bytes,
        .renew = settings->probe,
        .only_kept = ranks->only_kept,
    };
    return machine_probe(&options, out);
}

static Status read_packed(const Settings *settings, const Weights *weights,
                          const ModelConfig *config, PlanShape *out) {
    const BackendOptions options = {.cpu_isa = settings->cpu_isa};
    Device *device;
    Kernels kernels;
    TRY(backend_open("cpu", &options, &device, &kernels));
    Status status = plan_shape_read(weights, config, &kernels, out);
    device->close(device);
    return status;
}

Status plan_settings_shape(const Settings *settings, const Weights *weights,
                           const PlanMachine *machine, const PlanWork *work, PlanShape *out) {
    ModelConfig config;
    TRY(model_read_config(weights, &config));
    uint64_t tokens = (uint64_t)work->prompt_tokens + work->output_tokens;
    if (tokens > config.context_length)
        FAIL(CONTEXT_LENGTH, "prompt and answer of %llu tokens: the model was made for at most %u",
             (unsigned long long)tokens, config.context_length);
    return machine->unified ? read_packed(settings, weights, &config, out)
                            : plan_shape_read(weights, &config, NULL, out);
}

static bool is_given(const Settings *settings, const char *name) {
    return options_source(settings->options, name) != OPTION_SOURCE_DEFAULT;
}

PlanFreedom plan_settings_limits(const Settings *settings, const Codec *codecs[PLAN_CODECS_MAX]) {
    PlanFreedom limits = {.codecs = codecs,
                          .residual_tokens = settings->kv_residual,
                          .block_tokens = (uint32_t)settings->block_size};
    codecs[limits.codec_count++] = codec_find(settings->kv_codec);
    for (uint32_t i = 0; settings->any_codec && i < PLAN_CODECS_MAX - 1 && codec_at(i); i++)
        if (codec_at(i) != codecs[0]) codecs[limits.codec_count++] = codec_at(i);
    if (is_given(settings, "max-num-seqs")) limits.sequences = (uint32_t)settings->max_num_seqs;
    if (is_given(settings, "max-num-batched-tokens"))
        limits.rows = (uint32_t)settings->max_num_batched_tokens;
    return limits;
}

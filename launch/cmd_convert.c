/* Packs the layers of a model once, for later runs: --packed-weights reads the file instead of packing. */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/backend.h"
#include "launch/command.h"
#include "launch/machine_probe.h"
#include "launch/model_open.h"
#include "launch/packed_writer.h"
#include "launch/stop.h"
#include "runtime/base/log.h"
#include "runtime/models/model.h"

typedef struct Conversion {
    const Settings *settings;
    Weights *weights;
    ModelConfig config;
    Device *device;
    Kernels kernels;
    KernelContext context;
    PackedWriter writer;
} Conversion;

static Status open_source(Conversion *conversion) {
    const Settings *settings = conversion->settings;
    const BackendOptions backend = {.cpu_isa = settings->cpu_isa};
    const KernelLimits limits = {1, 1, 1, 1, 1}; /* packing takes the team and the stream alone */
    uint32_t threads = settings->threads > 0 ? (uint32_t)settings->threads : machine_core_count();
    TRY(model_open(settings, false, &conversion->weights));
    TRY(model_read_config(conversion->weights, &conversion->config));
    TRY(backend_open(settings->backend, &backend, &conversion->device, &conversion->kernels));
    TRY(team_create(&conversion->context.team, threads));
    return conversion->kernels.context_open(&conversion->kernels, conversion->device, &limits,
                                            &conversion->context);
}

static Status pack_rank(Conversion *conversion, int rank, int rank_count) {
    const ModelLoadOptions options = {.device = conversion->device,
                                      .kernels = &conversion->kernels,
                                      .context = &conversion->context,
                                      .rank = rank,
                                      .rank_count = rank_count,
                                      .max_model_len = conversion->config.context_length,
                                      .tiers = {.drop_sources = true}};
    const PackedSink sink = {packed_writer_add, &conversion->writer};
    return model_pack_layers(conversion->weights, &conversion->config, &options, &sink);
}

static Status pack_all(Conversion *conversion) {
    const Settings *settings = conversion->settings;
    int rank_count = settings->ranks > 0 ? (int)settings->ranks : 1;
    PackedHeader facts = {.rank_count = (uint32_t)rank_count,
                          .fingerprint = weights_fingerprint(conversion->weights)};
    snprintf(facts.layout, sizeof facts.layout, "%s", conversion->kernels.layout);
    TRY(packed_writer_create(&conversion->writer, settings->output, &facts));
    for (int rank = 0; rank < rank_count; rank++)
        TRY(pack_rank(conversion, rank, rank_count));
    TRY(packed_writer_finish(&conversion->writer));
    log_line(LOG_INFO, "convert",
             "\"%s\": %" PRIu32 " packed matrices, %.1f MiB, for %d %s with kernels %s",
             settings->output, conversion->writer.header.entry_count,
             (double)conversion->writer.header.file_bytes / 1048576, rank_count,
             rank_count == 1 ? "rank" : "ranks", conversion->kernels.layout);
    return STATUS_OK;
}

static int convert(const Settings *settings) {
    Conversion conversion = {.settings = settings, .writer = {.descriptor = -1}};
    weights_guard_install();
    Status status = stop_install(NULL, NULL);
    if (status == STATUS_OK) status = open_source(&conversion);
    if (status == STATUS_OK) status = pack_all(&conversion);
    packed_writer_discard(&conversion.writer);
    if (conversion.device) conversion.kernels.context_close(conversion.device, &conversion.context);
    team_destroy(conversion.context.team);
    if (conversion.device) conversion.device->close(conversion.device);
    weights_close(conversion.weights);
    return error_exit_code(status);
}

const Command command_convert[] = {
    {.name = "convert",
     .summary = "pack a model's layers once, as a file that --packed-weights reads",
     .positionals = "model",
     .needs = "model output",
     .takes = "model output ranks threads backend cpu-isa random-weights weight-type weight-seed",
     .run = convert},
    {.name = NULL},
};

#ifndef LAUNCH_SETTINGS_H
#define LAUNCH_SETTINGS_H

/* All that a person can set, as plain data, and the option table that fills it. Ranges stand in the table; what
 * depends on two settings is checked by settings_check. Strings are borrowed from the OptionSet. */

#include "runtime/base/options.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Settings {
    const OptionSet *options; /* for options_source */

    /* general */
    bool help, help_all, print_config, dry_run, version;
    const char *config;
    const char *log_level, *log_format, *log_file;
    bool quiet, no_progress;
    const char *progress;
    const char *summary_json;

    /* model */
    const char *model;
    bool random_weights;
    const char *weight_type;
    int64_t weight_seed;
    const char *served_model_name;
    const char *chat_template;

    /* ranks */
    int64_t ranks;
    int64_t threads; /* 0: the cores of this rank */
    const char *comm, *numa;
    double comm_timeout_s, drain_timeout_s;

    /* engine */
    const char *backend, *cpu_isa;
    int64_t emulation_seed;
    OptionSize emulation_memory;
    const char *emulation_pci;
    int64_t max_model_len; /* 0: the model's own */
    int64_t max_num_seqs, max_num_batched_tokens;
    int64_t block_size; /* tokens; 0: auto */
    OptionSize kv_device_size, kv_host_size, kv_nvme_size;
    OptionList kv_nvme_dir;
    OptionSize weights_device_size, weights_host_size, memory_limit;
    OptionList weights_nvme_dir;
    const char *packed_weights;
    const char *kv_codec, *kv_host_codec, *kv_nvme_codec;
    const char *attend;
    int64_t kv_residual;
    bool codec_during_prefill;
    const char *kv_placement, *kv_trace, *kv_trace_out;
    const char *io;
    int64_t io_depth;
    double io_timeout_s;
    const char *on_corrupt;
    int64_t max_corrupt;
    OptionList fault;
    const char *tiers_socket;

    /* plan */
    const char *placement, *machine;
    bool probe, any_codec;

    /* sampling */
    int64_t seed;
    double temperature, top_p, min_p;
    int64_t top_k;
    double repetition_penalty, presence_penalty, frequency_penalty;
    int64_t max_tokens;
    OptionList stop;
    bool ignore_eos;

    /* texts and files */
    const char *prompt, *system;
    bool raw;
    const char *input, *output, *errors;
    const char *tokens_file, *file;
    bool no_bos, json, verbose;
    const char *shell;
    const char *job;
    bool watch;
    const char *codec;
    const char *keys, *values, *output_keys, *output_values;

    /* batch */
    const char *format;
    const char *shard;
    bool one_file, ordered, retry_errors, lenient, fail_on_request_error;
    int64_t reorder_window;
    const char *resume;
    double sync_interval_s;

    /* eval */
    int64_t context, prefix, windows, stride;
    const char *mode;
    const char *reference_isa;

    /* bench */
    const char *dataset_name;
    int64_t num_prompts, random_input_len, random_output_len, max_concurrency;
    int64_t batch_size, num_iters, num_iters_warmup, num_steps, num_steps_warmup;
    bool synthetic_kv;
    double resident_speed;
    bool save_result;
    const char *result_filename;
    const char *dir;
    OptionSize io_size, size;
    double seconds;
} Settings;

extern const OptionTable settings_table;

/* What no single row can tell: combinations. E-USAGE. */
Status settings_check(const Settings *settings);

SPILLWAY_EXTERN_C_END

#endif

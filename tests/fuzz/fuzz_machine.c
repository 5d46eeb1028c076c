/* Any bytes as a machine file. One that is accepted is written and read back the same, and the planner finds finite figures for it
 * or says why nothing fits. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/machine_file.h"
#include "runtime/engine/planner.h"
#include "tests/fuzz/fuzz.h"

static const PlanShape shape = {.layer_count = 3,
                                .hidden_size = 128,
                                .intermediate_size = 256,
                                .vocab_count = 1000,
                                .head_count = 4,
                                .kv_head_count = 2,
                                .head_dim = 32,
                                .mlp_matrix_count = 3,
                                .context_length = 2048,
                                .attention = {.elements = {0, 0, 5e4}, .bytes = 3e4},
                                .mlp = {.elements = {1e5}, .bytes = 2e5},
                                .head = {.elements = {0, 1e5}, .bytes = 1e5},
                                .other_bytes = 1e5};

static void check_refusal(Status status) {
    const char *text;
    PROMISE(status == STATUS_BAD_INPUT);
    PROMISE(error_last(&text) == ERROR_MACHINE && text[0] && !strchr(text, '\n'));
}

/* Digits are kept to six places: once written, it stays as it is. */
static void check_reads_back(const PlanMachine *machine) {
    PlanMachine once, twice;
    char *first, *second;
    PROMISE(machine_file_text(machine, &first) == STATUS_OK);
    PROMISE(machine_file_parse(first, strlen(first), "once", &once) == STATUS_OK);
    PROMISE(machine_file_text(&once, &second) == STATUS_OK);
    PROMISE(strcmp(first, second) == 0);
    PROMISE(machine_file_parse(second, strlen(second), "twice", &twice) == STATUS_OK);
    PROMISE(once.rank_count == machine->rank_count && once.unified == machine->unified);
    free(first);
    free(second);
}

static void check_plans(const PlanMachine *machine) {
    const PlanWork work = {16, 300, 20};
    const Codec *const codecs[] = {NULL};
    const PlanFreedom freedom = {
        .codecs = codecs, .codec_count = 1, .residual_tokens = -1, .block_tokens = 32, .rows = 512};
    PlanChoice choice;
    Status status = plan_search(&shape, machine, &work, &freedom, &choice);
    if (status != STATUS_OK) {
        PROMISE(machine->rank_count > 1); /* too many */
        return;
    }
    PROMISE(choice.cost.fits || choice.cost.refusal[0]);
    if (!choice.cost.fits) return;
    PROMISE(choice.cost.seconds > 0 && isfinite(choice.cost.seconds));
    for (int tier = 0; tier < TIER_COUNT; tier++)
        PROMISE(choice.cost.needs[tier].total <= choice.cost.needs[tier].capacity);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PlanMachine machine;
    error_capture_begin();
    Status status = machine_file_parse((const char *)data, size, "fuzz.json", &machine);
    if (status == STATUS_OK) {
        check_reads_back(&machine);
        check_plans(&machine);
    } else {
        check_refusal(status);
    }
    error_capture_end();
    return 0;
}

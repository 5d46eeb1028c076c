#include "runtime/engine/kv_staging.h"

static const double margin = 1.5, decay = 0.6;

void kv_staging_work(KvStaging *staging, double now) {
    staging->work_began = now;
}

void kv_staging_let_go(KvStaging *staging, double now) {
    double pause = now - staging->work_began;
    double *longest = staging->pauses;
    if (pause > longest[0]) {
        longest[1] = longest[0];
        longest[0] = pause;
    } else if (pause > longest[1]) {
        longest[1] = pause;
    }
}

uint32_t kv_staging_begin_step(KvStaging *staging, double now, uint64_t read_bytes) {
    bool first = staging->step_began == 0;
    if (first)
        staging->planned = staging->slots_most;
    else
        kv_staging_let_go(staging, now);
    double seconds = now - staging->step_began;
    double bytes = (double)(read_bytes - staging->read_bytes_before);
    if (!first && seconds > 0 && bytes > 0) {
        double slots = staging->slots_least + margin * bytes * (staging->pauses[1] / seconds) /
                                                  (double)staging->slot_bytes;
        double lower = decay * staging->planned;
        staging->planned = slots > lower ? slots : lower;
    }
    if (staging->planned > staging->slots_most) staging->planned = staging->slots_most;
    staging->step_began = staging->work_began = now;
    staging->pauses[0] = staging->pauses[1] = 0;
    staging->read_bytes_before = read_bytes;
    return (uint32_t)staging->planned;
}

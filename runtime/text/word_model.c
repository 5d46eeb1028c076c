#include "runtime/text/word_model.h"

#include <stdlib.h>

#include "runtime/base/arena.h"

Status word_scratch_take(WordScratch *scratch, size_t bytes, void **out) {
    if (bytes > scratch->bytes) {
        void *memory;
        size_t wanted = bytes < 4096 ? 4096 : bytes + bytes / 2;
        TRY(memory_take(&memory, wanted, 1, "scratch memory of a word"));
        free(scratch->memory);
        *scratch = (WordScratch){.memory = memory, .bytes = wanted};
    }
    *out = scratch->memory;
    return STATUS_OK;
}

void word_scratch_free(WordScratch *scratch) {
    free(scratch->memory);
    *scratch = (WordScratch){0};
}

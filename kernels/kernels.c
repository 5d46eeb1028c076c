#include "kernels/kernels.h"

#include <string.h>

#include "kernels/reference/reference.h"

void kernels_fill_reference(Kernels *kernels) {
    kernels->name = "reference";
    matmul_fill_reference(kernels);
    norm_fill_reference(kernels);
    rope_fill_reference(kernels);
    embed_fill_reference(kernels);
    attention_fill_reference(kernels);
    elementwise_fill_reference(kernels);
    kernels->kv_encode = codec_encode_block;
    kernels->kv_decode = codec_decode_block;
}

typedef struct SlotRow {
    const char *name;
    size_t offset;
} SlotRow;

#define SLOT(name) \
    { #name, offsetof(Kernels, name) }

static const SlotRow slot_rows[] = {
    SLOT(scratch_bytes), SLOT(matrix_bytes), SLOT(matrix_pack), SLOT(matmul),    SLOT(rms_norm),
    SLOT(layer_norm),    SLOT(rope),         SLOT(embed),       SLOT(kv_store),  SLOT(attend_begin),
    SLOT(attend),        SLOT(attend_end),   SLOT(kv_encode),   SLOT(kv_decode), SLOT(add),
    SLOT(silu_multiply), SLOT(relu),
};

enum { SLOT_COUNT = sizeof slot_rows / sizeof slot_rows[0] };

/* Kernels is its name and its slots: a slot without a row does not compile. */
_Static_assert(sizeof(Kernels) == sizeof(const char *) + SLOT_COUNT * sizeof(void (*)(void)),
               "slot_rows lists every slot");

bool kernels_complete(const Kernels *kernels, const char **out_missing) {
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        void (*slot)(void);
        memcpy(&slot, (const char *)kernels + slot_rows[i].offset, sizeof slot);
        if (!slot) {
            *out_missing = slot_rows[i].name;
            return false;
        }
    }
    return true;
}

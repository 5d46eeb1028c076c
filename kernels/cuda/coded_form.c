#include "kernels/cuda/coded_form.h"

#include <string.h>

#include "runtime/base/invariant.h"

/* Which codec functions a kind of kernels/cuda/coded_numbers.cuh stands for: by name of a row of the codec table. */
static const struct {
    const char *name;
    CodedKind kind;
} kinds[] = {
    {"int8", CODED_INT8},
    {"fp8", CODED_FP8},
    {"int4_group", CODED_INT4_GROUP},
    {"kivi4", CODED_KIVI},
    {"kivi2", CODED_KIVI},
    {"turboquant2", CODED_TURBOQUANT},
    {"turboquant2_5", CODED_TURBOQUANT},
    {"turboquant3", CODED_TURBOQUANT},
    {"turboquant3_5", CODED_TURBOQUANT},
    {"turboquant4", CODED_TURBOQUANT},
};

static bool kind_of(const Codec *codec, CodedKind *out) {
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const Codec *row = codec_find(kinds[i].name);
        CHECK(row); /* a name of this list that no codec has */
        if (row->expand != codec->expand) continue;
        *out = kinds[i].kind;
        return true;
    }
    return false;
}

bool coded_form(const Codec *codec, const KvShape *shape, CodedForm *out) {
    bool raw = codec_is_raw(codec);
    if (raw) codec = codec_find("f16");
    *out = (CodedForm){.kind = CODED_RAW, .bits = codec->code_bits};
    if (!raw && !kind_of(codec, &out->kind)) return false;
    for (CodecPart part = CODEC_KEYS; part < CODEC_PART_COUNT; part++) {
        CodecHead head = codec_head(codec, shape, part);
        out->head_bytes[part] = codec->head_bytes(&head);
        if (out->kind == CODED_TURBOQUANT) out->plan = *turbo_plan(&head);
    }
    return true;
}

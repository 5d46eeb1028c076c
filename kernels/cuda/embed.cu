/* Rows of the embedding table from the formats of files: a block of threads a row. A format is a struct of its block's size and of
 * the number of an element, by the arithmetic of kernels/quant. */

#include <string.h>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

enum { EMBED_THREADS = 128 };

/* Blocks begin at even addresses only. */
DEVICE uint32_t bytes2(const uint8_t *bytes) {
    return *reinterpret_cast<const uint16_t *>(bytes);
}
DEVICE float half_at(const uint8_t *bytes) {
    return half_to_float((uint16_t)bytes2(bytes));
}

/* Code `i` of nibbles in runs of 2 * half: low nibbles first. */
DEVICE uint32_t nibble(const uint8_t *bytes, uint32_t half, uint32_t i) {
    uint32_t byte = bytes[i / (2 * half) * half + i % half];
    return i % (2 * half) < half ? byte & 15 : byte >> 4;
}

/* Scale or minimum `group` of the 12 packed bytes of Q4_K and Q5_K: `which` 0 or 1. */
DEVICE uint32_t k_six_bits(const uint8_t *packed, uint32_t which, uint32_t group) {
    if (group < 4) return packed[4 * which + group] & 63;
    uint32_t low = which ? packed[4 + group] >> 4 : packed[4 + group] & 15;
    return low | packed[4 * which + group - 4] >> 6 << 4;
}

struct EmbedF32 {
    static const uint32_t elements = 1, bytes = 4;
    DEVICE float number(const uint8_t *block, uint32_t) {
        return bits_to_float(bytes2(block) | bytes2(block + 2) << 16);
    }
};
struct EmbedF16 {
    static const uint32_t elements = 1, bytes = 2;
    DEVICE float number(const uint8_t *block, uint32_t) { return half_at(block); }
};
struct EmbedBf16 {
    static const uint32_t elements = 1, bytes = 2;
    DEVICE float number(const uint8_t *block, uint32_t) {
        return bits_to_float(bytes2(block) << 16);
    }
};
struct EmbedQ4_0 {
    static const uint32_t elements = 32, bytes = 18;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        return half_at(block) * (float)((int32_t)nibble(block + 2, 16, i) - 8);
    }
};
struct EmbedQ4_1 {
    static const uint32_t elements = 32, bytes = 20;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        return half_at(block) * (float)nibble(block + 4, 16, i) + half_at(block + 2);
    }
};
struct EmbedQ5_0 {
    static const uint32_t elements = 32, bytes = 22;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        uint32_t code = nibble(block + 6, 16, i) | (block[2 + i / 8] >> i % 8 & 1) << 4;
        return half_at(block) * (float)((int32_t)code - 16);
    }
};
struct EmbedQ5_1 {
    static const uint32_t elements = 32, bytes = 24;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        uint32_t code = nibble(block + 8, 16, i) | (block[4 + i / 8] >> i % 8 & 1) << 4;
        return half_at(block) * (float)code + half_at(block + 2);
    }
};
struct EmbedQ8_0 {
    static const uint32_t elements = 32, bytes = 34;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        return half_at(block) * (float)(int8_t)block[2 + i];
    }
};
struct EmbedQ4_K {
    static const uint32_t elements = 256, bytes = 144;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        float scale = half_at(block) * (float)k_six_bits(block + 4, 0, i / 32);
        float minimum = half_at(block + 2) * (float)k_six_bits(block + 4, 1, i / 32);
        return scale * (float)nibble(block + 16, 32, i) + -minimum;
    }
};
struct EmbedQ5_K {
    static const uint32_t elements = 256, bytes = 176;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        float scale = half_at(block) * (float)k_six_bits(block + 4, 0, i / 32);
        float minimum = half_at(block + 2) * (float)k_six_bits(block + 4, 1, i / 32);
        uint32_t code = nibble(block + 48, 32, i) | (block[16 + i % 32] >> i / 32 & 1) << 4;
        return scale * (float)code + -minimum;
    }
};
/* Low nibbles of halves of 128, then pairs of upper bits, sixteen signed scales, and the factor of all. */
struct EmbedQ6_K {
    static const uint32_t elements = 256, bytes = 210;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        uint32_t half = i / 128, e = i % 128;
        uint32_t high = block[128 + 32 * half + e % 32] >> (e / 32 * 2) & 3;
        uint32_t code = nibble(block + 64 * half, 64, e) | high << 4;
        float scale = half_at(block + 208) * (float)(int8_t)block[192 + i / 16];
        return scale * (float)((int32_t)code - 32);
    }
};
struct EmbedInt4Group {
    static const uint32_t elements = 64, bytes = 36;
    DEVICE float number(const uint8_t *block, uint32_t i) {
        return half_at(block) * (float)nibble(block + 4, 32, i) + half_at(block + 2);
    }
};

template <class Format> KERNEL(EMBED_THREADS) void embed_rows(EmbedArgs args) {
    uint64_t row = block_index().x, elements = args.table.shape[1];
    int64_t id = args.ids[row];
    float *out = args.out + row * args.out_stride;
    bool owned = id >= 0 && (uint64_t)id >= args.row_begin && (uint64_t)id < args.row_end;
    const uint8_t *blocks = static_cast<const uint8_t *>(args.table.data);
    if (owned)
        blocks += ((uint64_t)id - args.row_begin) * (elements / Format::elements) * Format::bytes;
    for (uint32_t i = thread_index().x; i < elements; i += EMBED_THREADS)
        out[i] = owned ? Format::number(blocks + i / Format::elements * (uint64_t)Format::bytes,
                                        i % Format::elements)
                       : 0.0f;
}

template <class Format> static void format_launch(DeviceStream *stream, const EmbedArgs *args) {
    LAUNCH(embed_rows<Format>, extent(args->row_count), extent(EMBED_THREADS), 0, stream, *args);
}

static const struct {
    const char *name; /* of the Quant */
    void (*launch)(DeviceStream *stream, const EmbedArgs *args);
} formats[] = {
    {"f32", format_launch<EmbedF32>},   {"f16", format_launch<EmbedF16>},
    {"bf16", format_launch<EmbedBf16>}, {"q4_0", format_launch<EmbedQ4_0>},
    {"q4_1", format_launch<EmbedQ4_1>}, {"q5_0", format_launch<EmbedQ5_0>},
    {"q5_1", format_launch<EmbedQ5_1>}, {"q8_0", format_launch<EmbedQ8_0>},
    {"q4_k", format_launch<EmbedQ4_K>}, {"q5_k", format_launch<EmbedQ5_K>},
    {"q6_k", format_launch<EmbedQ6_K>}, {"int4_group", format_launch<EmbedInt4Group>},
};

static bool embed_launch(DeviceStream *stream, const EmbedArgs *args) {
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (strcmp(formats[i].name, args->table.quant->name) != 0) continue;
        formats[i].launch(stream, args);
        return true;
    }
    return false;
}

extern "C" void PORT_NAME(embed_fill)(CudaLaunchers *launchers) {
    launchers->embed = embed_launch;
}

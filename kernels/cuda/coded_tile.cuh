#ifndef CUDA_CODED_TILE_CUH
#define CUDA_CODED_TILE_CUH

/* Up to 32 tokens of a head, raw or encoded, as floats in shared memory: tile[token of the chunk][stride]. All threads of the block
 * take part; the tile may be read after the next barrier. Columns from head_dim to the next multiple of 4 are zeros. */

#include "kernels/cuda/coded_numbers.cuh"
#include "kernels/cuda/turbo_rotation.cuh"

enum { CHUNK_TOKENS = WARP_LANES };

/* An odd number of quads: 32 lanes that each read a quad of their own row meet no bank twice. */
HOST_DEVICE uint32_t tile_stride(uint32_t head_dim) {
    return 4 * ((head_dim + 3) / 4 | 1);
}

struct CodedTile {
    SharedArray<float> numbers;
    SharedArray<uint32_t> channels; /* [head_dim]; TurboQuant only */
    uint32_t stride;
};

/* Tokens [from, to) of the chunk that begins at token chunk_first of the head. */
struct TokenChunk {
    uint32_t chunk_first, from, to;
};

/* A thread has 16 neighbours of a token at a time. Lanes begin at different quads: else four of eight would meet a bank. */
template <class Form>
DEVICE void expand_units(const CodedHead &head, const TokenChunk &chunk, const CodedTile &tile) {
    uint32_t units = head.head_dim / UNIT_NUMBERS, threads = block_extent().x;
    uint32_t token = chunk.from + thread_index().x / units, place = thread_index().x % units;
    for (; token < chunk.to; token += threads / units) {
        uint32_t d = place * UNIT_NUMBERS;
        CodedUnit unit = Form::unit(head, chunk.chunk_first + token, d);
        for (uint32_t i = 0; i < UNIT_QUADS; i++) {
            uint32_t s = (i + warp_lane() / 2) % UNIT_QUADS;
            store4_shared(tile.numbers, token * tile.stride + d + 4 * s, Form::quad(unit, s));
        }
        place += threads % units;
        if (place >= units) {
            place -= units;
            token++;
        }
    }
}

/* Raw rows of any width and address. */
DEVICE void expand_any_halves(const CodedHead &head, const TokenChunk &chunk,
                              const CodedTile &tile) {
    uint32_t quads = (head.head_dim + 3) / 4, count = (chunk.to - chunk.from) * quads;
    for (uint32_t item = thread_index().x; item < count; item += block_extent().x) {
        uint32_t token = chunk.from + item / quads, d = item % quads * 4;
        uint64_t row = (uint64_t)(chunk.chunk_first + token) * head.head_dim;
        float numbers[4] = {};
        for (uint32_t i = 0; i < 4 && d + i < head.head_dim; i++)
            numbers[i] = half_to_float(load_half(head.bytes, row + d + i));
        store4_shared(tile.numbers, token * tile.stride + d,
                      Float4{numbers[0], numbers[1], numbers[2], numbers[3]});
    }
}

DEVICE Float4 two_halves_pairs(uint32_t low, uint32_t high) {
    return Float4{half_to_float((uint16_t)low), half_to_float((uint16_t)(low >> 16)),
                  half_to_float((uint16_t)high), half_to_float((uint16_t)(high >> 16))};
}

/* Raw rows of a multiple of 8 halves at 16-byte addresses: a thread has four loads of 16 bytes under way. */
DEVICE void expand_halves(const CodedHead &head, const TokenChunk &chunk, const CodedTile &tile) {
    enum { LOADS = 4 };
    uint32_t parts = head.head_dim / 8, count = (chunk.to - chunk.from) * parts;
    const uint8_t *rows =
        head.bytes + 2 * (uint64_t)(chunk.chunk_first + chunk.from) * head.head_dim;
    uint32_t threads = block_extent().x;
    for (uint32_t first = thread_index().x; first < count; first += LOADS * threads) {
        Words4 words[LOADS];
        for (uint32_t i = 0; i < LOADS; i++)
            if (first + i * threads < count)
                words[i] = load_words4(rows + 16 * (uint64_t)(first + i * threads));
        for (uint32_t i = 0; i < LOADS; i++) {
            uint32_t item = first + i * threads;
            if (item >= count) continue;
            uint32_t at = (chunk.from + item / parts) * tile.stride + item % parts * 8;
            store4_shared(tile.numbers, at, two_halves_pairs(words[i].x, words[i].y));
            store4_shared(tile.numbers, at + 4, two_halves_pairs(words[i].z, words[i].w));
        }
    }
}

/* KIVI's keys lie by channel and a chunk is a group: a thread takes a channel, its step and minimum once. */
DEVICE void expand_kivi_keys(const CodedHead &head, const TokenChunk &chunk,
                             const CodedTile &tile) {
    uint32_t codes_a_word = 32 / head.bits, mask = (1u << head.bits) - 1;
    const uint8_t *steps = FormKivi::steps_of(head);
    const uint8_t *minima = steps + 2 * FormKivi::group_count(head);
    for (uint32_t d = thread_index().x; d < head.head_dim; d += block_extent().x) {
        uint32_t group = FormKivi::key_group(head, chunk.chunk_first, d);
        float step = half_to_float(load_half(steps, group));
        float minimum = half_to_float(load_half(minima, group));
        const uint8_t *codes = head.bytes + group * FormKivi::GROUP * head.bits / 8;
        uint32_t word = 0;
        for (uint32_t token = 0; token < CHUNK_TOKENS; token++) {
            if (token % codes_a_word == 0) word = load_bytes4(codes + token / codes_a_word * 4);
            if (token >= chunk.from && token < chunk.to)
                tile.numbers[token * tile.stride + d] = (float)(word & mask) * step + minimum;
            word >>= head.bits;
        }
    }
}

template <uint32_t SLOTS>
DEVICE void expand_turbo(const TurboPlan *plan, const CodedHead &head, const TokenChunk &chunk,
                         const CodedTile &tile) {
    turbo_channel_order(plan, head.bytes, head.head_dim, tile.channels);
    block_sync();
    const TurboLane<SLOTS> own = turbo_lane<SLOTS>(plan, head.head_dim, tile.channels);
    uint32_t warps = block_extent().x / WARP_LANES;
    for (uint32_t token = chunk.from + warp_index(); token < chunk.to; token += warps)
        turbo_expand_token<SLOTS>(plan, own, head.bytes, head.token_count,
                                  chunk.chunk_first + token, head.head_dim,
                                  tile.numbers + token * tile.stride);
}

/* SLOTS: numbers of a token that a lane of one warp has, head_dim / 32 rounded up to 2, 4 or 8. */
template <uint32_t SLOTS>
DEVICE void expand_coded(const CodedForm *form, const CodedHead &head, const TokenChunk &chunk,
                         const CodedTile &tile) {
    switch (form->kind) {
    case CODED_RAW: break; /* expand_raw */
    case CODED_INT8: expand_units<FormInt8>(head, chunk, tile); break;
    case CODED_FP8: expand_units<FormFp8>(head, chunk, tile); break;
    case CODED_INT4_GROUP: expand_units<FormInt4Group>(head, chunk, tile); break;
    case CODED_KIVI:
        if (head.keys)
            expand_kivi_keys(head, chunk, tile);
        else if (head.bits == 4)
            expand_units<FormKiviValues<4>>(head, chunk, tile);
        else
            expand_units<FormKiviValues<2>>(head, chunk, tile);
        break;
    case CODED_TURBOQUANT: expand_turbo<SLOTS>(&form->plan, head, chunk, tile); break;
    }
}

DEVICE void expand_raw(const CodedHead &head, const TokenChunk &chunk, const CodedTile &tile) {
    if (head.head_dim % 8 == 0 && (uintptr_t)head.bytes % 16 == 0)
        expand_halves(head, chunk, tile);
    else
        expand_any_halves(head, chunk, tile);
}

DEVICE CodedHead coded_head(const CodedForm *form, const KvShape *shape, const uint8_t *block,
                            CodecPart part, uint32_t kv_head) {
    uint64_t index = (uint64_t)part * shape->kv_head_count + kv_head;
    return CodedHead{block + index * form->head_bytes[part], shape->block_tokens, shape->head_dim,
                     form->bits, part == CODEC_KEYS};
}

#endif

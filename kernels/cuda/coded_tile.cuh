#ifndef CUDA_CODED_TILE_CUH
#define CUDA_CODED_TILE_CUH

/* Up to 32 tokens of a head, raw or encoded, as floats in shared memory: a row a token. All threads of the block take part; the tile
 * may be read after the next barrier.
 *
 * A row is units of 16 channels, filled up with zeros. In a unit the channels of one place in their quads stand together, those that one chain
 * of a score adds up: d, d + 4, d + 8, d + 12 are a quad of the row (tile_quad), so that a load brings four steps of a chain. Which quad of the unit
 * it is turns from one two units to the next: then eight neighbouring units, rows' quads of a lane each, and channels of a lane each meet no bank twice. */

#include "kernels/cuda/coded_numbers.cuh"
#include "kernels/cuda/turbo_rotation.cuh"

enum { CHUNK_TOKENS = WARP_LANES, ATTEND_THREADS = ATTEND_WARPS * WARP_LANES };

/* Units of a row. */
HOST_DEVICE uint32_t tile_units(uint32_t head_dim) {
    return (head_dim + UNIT_NUMBERS - 1) / UNIT_NUMBERS;
}

/* DIM_SLOTS: head_dim / 32 rounded up to 2, 4 or 8. An odd number of quads: see above. */
template <uint32_t DIM_SLOTS> struct TileRow {
    enum : uint32_t { UNITS = 2 * DIM_SLOTS, STRIDE = UNITS * UNIT_NUMBERS + 4 };
};

/* Where the quad of place 0 … 3 begins in a row. */
HOST_DEVICE uint32_t tile_quad(uint32_t unit, uint32_t place) {
    return UNIT_NUMBERS * unit + 4 * (place ^ (unit / 2 % 4));
}

/* Where a channel stands. */
HOST_DEVICE uint32_t tile_channel(uint32_t d) {
    return tile_quad(d / UNIT_NUMBERS, d % 4) + d / 4 % 4;
}

template <uint32_t DIM_SLOTS> struct CodedTile {
    SharedArray<float> numbers;
    SharedArray<uint32_t> channels; /* [head_dim]; TurboQuant only */
};

template <uint32_t DIM_SLOTS>
DEVICE void tile_store(const CodedTile<DIM_SLOTS> &tile, uint32_t token, uint32_t unit,
                       const float *numbers) {
    for (uint32_t place = 0; place < 4; place++)
        store4_shared(
            tile.numbers, token * TileRow<DIM_SLOTS>::STRIDE + tile_quad(unit, place),
            Float4{numbers[place], numbers[4 + place], numbers[8 + place], numbers[12 + place]});
}

/* Tokens [from, to) of the chunk that begins at token chunk_first of the head. */
struct TokenChunk {
    uint32_t chunk_first, from, to;
};

/* A thread has one unit of every TOKENS-th row. */
template <uint32_t DIM_SLOTS> struct UnitThread {
    enum : uint32_t {
        TOKENS = ATTEND_THREADS / TileRow<DIM_SLOTS>::UNITS,
        AT_ONCE = CHUNK_TOKENS / TOKENS < 2 ? 1 : 2, /* on their way at a time */
    };
    DEVICE uint32_t unit() { return thread_index().x % TileRow<DIM_SLOTS>::UNITS; }
    DEVICE uint32_t token(uint32_t pass) {
        return thread_index().x / TileRow<DIM_SLOTS>::UNITS + pass * TOKENS;
    }
};

DEVICE bool chunk_has(const TokenChunk &chunk, uint32_t token) {
    return token >= chunk.from && token < chunk.to;
}

template <class Form, uint32_t DIM_SLOTS>
DEVICE void expand_units(const CodedHead &head, const TokenChunk &chunk,
                         const CodedTile<DIM_SLOTS> &tile) {
    typedef UnitThread<DIM_SLOTS> Thread;
    uint32_t unit = Thread::unit();
    if (unit >= tile_units(head.head_dim)) return;
#pragma unroll
    for (uint32_t pass = 0; pass < CHUNK_TOKENS / Thread::TOKENS; pass += Thread::AT_ONCE) {
        typename Form::Unit units[Thread::AT_ONCE] = {};
        for (uint32_t i = 0; i < Thread::AT_ONCE; i++)
            if (chunk_has(chunk, Thread::token(pass + i)))
                units[i] = Form::unit(head, chunk.chunk_first + Thread::token(pass + i),
                                      unit * UNIT_NUMBERS);
        for (uint32_t i = 0; i < Thread::AT_ONCE; i++) {
            if (!chunk_has(chunk, Thread::token(pass + i))) continue;
            float numbers[UNIT_NUMBERS];
            Form::numbers(units[i], numbers);
            tile_store(tile, Thread::token(pass + i), unit, numbers);
        }
    }
}

/* KIVI's keys lie by channel and a chunk is a group: a thread takes a channel, its step and minimum once. */
template <uint32_t BITS, uint32_t DIM_SLOTS>
DEVICE void expand_kivi_keys(const CodedHead &head, const TokenChunk &chunk,
                             const CodedTile<DIM_SLOTS> &tile) {
    const uint32_t word_codes = 32 / BITS;
    const uint32_t below = chunk.to < 32 ? (1u << chunk.to) - 1 : 0xffffffffu;
    const uint32_t wanted = below & ~((1u << chunk.from) - 1); /* tokens, a bit each */
    const uint8_t *steps = FormKivi::steps_of(head);
    const uint8_t *minima = steps + 2 * FormKivi::group_count(head);
    for (uint32_t d = thread_index().x; d < head.head_dim; d += ATTEND_THREADS) {
        uint32_t group = FormKivi::key_group(head, chunk.chunk_first, d);
        float step = half_to_float(load_half(steps, group));
        float minimum = half_to_float(load_half(minima, group));
        const uint8_t *codes = head.bytes + group * FormKivi::GROUP * BITS / 8;
        for (uint32_t first = 0; first < CHUNK_TOKENS; first += word_codes) {
            uint32_t word = load_bytes4(codes + first * BITS / 8);
            for (uint32_t i = 0; i < word_codes; i++) {
                uint32_t token = first + i;
                if (wanted >> token & 1)
                    tile.numbers[token * TileRow<DIM_SLOTS>::STRIDE + tile_channel(d)] =
                        kivi_code<BITS>(word, i) * step + minimum;
            }
        }
    }
}

template <uint32_t DIM_SLOTS>
DEVICE void expand_turbo(const TurboPlan *plan, const CodedHead &head, const TokenChunk &chunk,
                         const CodedTile<DIM_SLOTS> &tile) {
    turbo_channel_order(plan, head.bytes, head.head_dim, tile.channels);
    block_sync();
    TurboLane<DIM_SLOTS> own = turbo_lane<DIM_SLOTS>(plan, head.head_dim, tile.channels);
    for (uint32_t slot = 0; slot < DIM_SLOTS; slot++)
        own.channels[slot] = tile_channel(own.channels[slot]);
    for (uint32_t token = chunk.from + warp_index(); token < chunk.to; token += ATTEND_WARPS)
        turbo_expand_token<DIM_SLOTS>(plan, own, head.bytes, head.token_count,
                                      chunk.chunk_first + token, head.head_dim,
                                      tile.numbers + token * TileRow<DIM_SLOTS>::STRIDE);
}

template <uint32_t BITS, uint32_t DIM_SLOTS>
DEVICE void expand_kivi(const CodedHead &head, const TokenChunk &chunk,
                        const CodedTile<DIM_SLOTS> &tile) {
    if (head.keys)
        expand_kivi_keys<BITS>(head, chunk, tile);
    else
        expand_units<FormKiviValues<BITS>>(head, chunk, tile);
}

template <uint32_t DIM_SLOTS>
DEVICE void expand_coded(const CodedForm *form, const CodedHead &head, const TokenChunk &chunk,
                         const CodedTile<DIM_SLOTS> &tile) {
    switch (form->kind) {
    case CODED_RAW: break; /* expand_raw */
    case CODED_INT8: expand_units<FormInt8>(head, chunk, tile); break;
    case CODED_FP8: expand_units<FormFp8>(head, chunk, tile); break;
    case CODED_INT4_GROUP: expand_units<FormInt4Group>(head, chunk, tile); break;
    case CODED_KIVI:
        if (head.bits == 4)
            expand_kivi<4>(head, chunk, tile);
        else
            expand_kivi<2>(head, chunk, tile);
        break;
    case CODED_TURBOQUANT: expand_turbo(&form->plan, head, chunk, tile); break;
    }
}

template <uint32_t DIM_SLOTS>
DEVICE void expand_raw(const CodedHead &head, const TokenChunk &chunk,
                       const CodedTile<DIM_SLOTS> &tile) {
    if (head.head_dim % 8 == 0 && (uintptr_t)head.bytes % 16 == 0)
        expand_units<FormHalves>(head, chunk, tile);
    else
        expand_units<FormAnyHalves>(head, chunk, tile);
}

DEVICE CodedHead coded_head(const CodedForm *form, const KvShape *shape, const uint8_t *block,
                            CodecPart part, uint32_t kv_head) {
    uint64_t index = (uint64_t)part * shape->kv_head_count + kv_head;
    return CodedHead{block + index * form->head_bytes[part], shape->block_tokens, shape->head_dim,
                     form->bits, part == CODEC_KEYS};
}

#endif

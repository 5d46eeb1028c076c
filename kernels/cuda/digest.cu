/* XXH3-64 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) of what has been copied to the device: a block for each piece of memory.
 * Eight accumulators run over chunks of 16 stripes of 64 bytes. What a chunk adds to them does not depend on what they are,
 * so the warps make these sums side by side, and the first folds them in order: add, then scramble. */

#include "kernels/cuda/digest.h"
#include "kernels/cuda/port.cuh"

enum {
    DIGEST_THREADS = 256,
    DIGEST_WARPS = DIGEST_THREADS / WARP_LANES,
    WARP_CHUNKS = 4, /* of a warp, in a round */
    ROUND_CHUNKS = WARP_CHUNKS * DIGEST_WARPS,
    LANES = 8, /* accumulators; a stripe has a number for each */
    STRIPE_BYTES = 64,
    CHUNK_STRIPES = 16,
    CHUNK_BYTES = CHUNK_STRIPES * STRIPE_BYTES,
    LOAD_STRIPES = 8, /* that a warp loads at once: 16 bytes a lane */
    SECRET_WORDS = 24,
    SECRET_BYTES = SECRET_WORDS * 8,
    ROUND_SUMS = ROUND_CHUNKS * LANES,
    DIGEST_SHARED_BYTES = SECRET_BYTES + 2 * ROUND_SUMS * 8,
};

/* Where in the secret the steps look; the last two are not at a word. */
enum { SECRET_SCRAMBLE_WORD = CHUNK_STRIPES, SECRET_LAST_BYTE = 121, SECRET_MERGE_BYTE = 11 };

static const uint64_t secret_words[SECRET_WORDS] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
    0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
    0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
    0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
    0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af,
};

static const uint64_t prime32_1 = 0x9E3779B1, prime32_2 = 0x85EBCA77, prime32_3 = 0xC2B2AE3D,
                      prime64_1 = 0x9E3779B185EBCA87, prime64_2 = 0xC2B2AE3D27D4EB4F,
                      prime64_3 = 0x165667B19E3779F9, prime64_4 = 0x85EBCA77C2B2AE63,
                      prime64_5 = 0x27D4EB2F165667C5;

struct DigestLaunch {
    DeviceDigest digests[DEVICE_DIGESTS_MAX];
    uint64_t secret[SECRET_WORDS];
    uint64_t start[LANES]; /* what the accumulators begin with */
};

DEVICE uint64_t low_times_high(uint64_t number) {
    return (uint64_t)(uint32_t)number * (uint32_t)(number >> 32);
}

/* Upper and lower half of the product of 128 bits, as one. */
DEVICE uint64_t multiply_fold(uint64_t a, uint64_t b) {
    uint64_t a_low = (uint32_t)a, a_high = a >> 32, b_low = (uint32_t)b, b_high = b >> 32;
    uint64_t low = a_low * b_low, left = a_high * b_low, right = a_low * b_high;
    uint64_t middle = (low >> 32) + (uint32_t)left + right;
    uint64_t upper = a_high * b_high + (left >> 32) + (middle >> 32);
    return upper ^ (middle << 32 | (uint32_t)low);
}

/* Eight bytes of the secret from any of them on, but a word's first. */
DEVICE uint64_t secret_at(SharedArray<uint64_t> secret, uint32_t byte) {
    uint64_t first = secret[byte / 8], second = secret[byte / 8 + 1];
    return first >> 8 * (byte % 8) | second << (64 - 8 * (byte % 8));
}

/* What number `value` adds under key `key`: its own accumulator gets the product, that beside it the number. */
DEVICE void accumulate(uint64_t value, uint64_t key, uint64_t *own, uint64_t *beside) {
    *own += low_times_high(value ^ key);
    *beside += value;
}

/* What the first stripes of a chunk add, to sums[LANES]. A lane has the numbers 2 (lane % 4) and the next of stripes lane / 4 and eight on. */
DEVICE void chunk_sums(const uint8_t *chunk, uint32_t stripe_count, SharedArray<uint64_t> secret,
                       SharedArray<uint64_t> sums) {
    uint32_t pair = 2 * (warp_lane() % 4);
    uint64_t even = 0, odd = 0;
    for (uint32_t first = 0; first < CHUNK_STRIPES; first += LOAD_STRIPES) {
        uint32_t stripe = first + warp_lane() / 4;
        if (stripe >= stripe_count) continue;
        Words4 words = load_words4(chunk + stripe * STRIPE_BYTES + pair * 8);
        accumulate((uint64_t)words.y << 32 | words.x, secret[stripe + pair], &even, &odd);
        accumulate((uint64_t)words.w << 32 | words.z, secret[stripe + pair + 1], &odd, &even);
    }
    for (uint32_t mask = 4; mask < WARP_LANES; mask *= 2) {
        even += warp_shuffle_xor(even, mask);
        odd += warp_shuffle_xor(odd, mask);
    }
    if (warp_lane() >= 4) return;
    sums[pair] = even;
    sums[pair + 1] = odd;
}

/* The last 64 bytes, which may begin anywhere. All lanes of a warp; lane and lane + 8 do the same. */
DEVICE uint64_t last_stripe_sum(const uint8_t *stripe, SharedArray<uint64_t> secret) {
    uint32_t lane = warp_lane() % LANES;
    uint64_t value = 0, own = 0, beside = 0;
    for (uint32_t i = 0; i < 8; i++)
        value |= (uint64_t)stripe[8 * lane + i] << 8 * i;
    accumulate(value, secret_at(secret, SECRET_LAST_BYTE + 8 * lane), &own, &beside);
    return own + warp_shuffle_xor(beside, 1);
}

DEVICE uint64_t finish(uint64_t accumulator, uint64_t byte_count, SharedArray<uint64_t> secret) {
    uint32_t lane = warp_lane() % LANES;
    uint64_t keyed = accumulator ^ secret_at(secret, SECRET_MERGE_BYTE + 8 * lane);
    uint64_t sum = multiply_fold(keyed, warp_shuffle_xor(keyed, 1));
    sum += warp_shuffle_xor(sum, 2);
    sum += warp_shuffle_xor(sum, 4);
    sum += byte_count * prime64_1;
    sum ^= sum >> 37;
    sum *= 0x165667919E3779F9;
    return sum ^ sum >> 32;
}

/* Grid: pieces. Shared: the secret under this seed, sums of two rounds in turn. */
KERNEL(DIGEST_THREADS) void digest_pieces(DigestLaunch launch, uint64_t *out) {
    const DeviceDigest digest = launch.digests[block_index().x];
    const uint8_t *bytes = static_cast<const uint8_t *>(digest.bytes);
    SharedArray<uint64_t> secret = shared_array<uint64_t>(0, SECRET_WORDS);
    SharedArray<uint64_t> sums = shared_array<uint64_t>(SECRET_BYTES, 2 * ROUND_SUMS);
    uint32_t thread = thread_index().x, lane = warp_lane() % LANES;
    if (thread < SECRET_WORDS)
        secret[thread] =
            thread % 2 ? launch.secret[thread] - digest.seed : launch.secret[thread] + digest.seed;
    block_sync();
    uint64_t chunk_count = (digest.count - 1) / CHUNK_BYTES; /* those that are scrambled */
    uint32_t stripes_left =
        (uint32_t)((digest.count - 1 - chunk_count * CHUNK_BYTES) / STRIPE_BYTES);
    uint64_t accumulator = launch.start[lane], scramble_key = secret[SECRET_SCRAMBLE_WORD + lane];
    for (uint64_t first = 0, round = 0; first <= chunk_count; first += ROUND_CHUNKS, round ^= 1) {
        SharedArray<uint64_t> round_sums = sums + round * ROUND_SUMS;
        for (uint32_t i = 0; i < WARP_CHUNKS; i++) {
            uint64_t place = i * DIGEST_WARPS + warp_index(), chunk = first + place;
            if (chunk > chunk_count) break;
            chunk_sums(bytes + chunk * CHUNK_BYTES,
                       chunk < chunk_count ? (uint32_t)CHUNK_STRIPES : stripes_left, secret,
                       round_sums + place * LANES);
        }
        block_sync();
        if (warp_index() > 0) continue;
        for (uint64_t chunk = first; chunk <= chunk_count && chunk < first + ROUND_CHUNKS;
             chunk++) {
            accumulator += round_sums[(chunk - first) * LANES + lane];
            if (chunk == chunk_count) break;
            accumulator = (accumulator ^ accumulator >> 47 ^ scramble_key) * prime32_1;
        }
    }
    if (warp_index() > 0) return;
    accumulator += last_stripe_sum(bytes + digest.count - STRIPE_BYTES, secret);
    uint64_t made = finish(accumulator, digest.count, secret);
    if (thread == 0) out[block_index().x] = made;
}

#ifdef __CUDACC__
extern "C" bool digest_runs_cuda(void) {
    cudaFuncAttributes attributes;
    bool runs = cudaFuncGetAttributes(&attributes, digest_pieces) == cudaSuccess;
    (void)cudaGetLastError();
    return runs;
}
#endif

extern "C" void PORT_NAME(digest_launch)(DeviceStream *stream, const DeviceDigest *digests,
                                         uint32_t digest_count, uint64_t *out) {
    DigestLaunch launch = {
        {},
        {},
        {prime32_3, prime64_1, prime64_2, prime64_3, prime64_4, prime32_2, prime64_5, prime32_1}};
    for (uint32_t i = 0; i < digest_count; i++)
        launch.digests[i] = digests[i];
    for (uint32_t i = 0; i < SECRET_WORDS; i++)
        launch.secret[i] = secret_words[i];
    LAUNCH(digest_pieces, extent(digest_count), extent(DIGEST_THREADS), DIGEST_SHARED_BYTES, stream,
           launch, out);
}

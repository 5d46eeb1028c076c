#include "runtime/base/hash.h"

#define XXH_INLINE_ALL
#include <openssl/evp.h>
#include <xxhash.h>

#include <stdatomic.h>

#include "runtime/base/hash_vector.h"
#include "runtime/base/invariant.h"

typedef uint64_t Xxh3(const void *bytes, size_t size, uint64_t seed);

static uint64_t hash_xxh3_plain(const void *bytes, size_t size, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, size, seed);
}

static Xxh3 *xxh3_of_this_cpu(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return hash_xxh3_avx512;
    if (__builtin_cpu_supports("avx2")) return hash_xxh3_avx2;
#endif
    return hash_xxh3_plain;
}

uint64_t hash_xxh3(const void *bytes, size_t size, uint64_t seed) {
    static Xxh3 *_Atomic chosen; /* by whoever comes first; all choose the same */
    Xxh3 *hash = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!hash) {
        hash = xxh3_of_this_cpu();
        atomic_store_explicit(&chosen, hash, memory_order_relaxed);
    }
    return hash(bytes, size, seed);
}

Status sha256_begin(Sha256 *out) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        FAIL(MEMORY, "SHA-256: libcrypto cannot start a digest");
    }
    out->context = context;
    return STATUS_OK;
}

void sha256_add(Sha256 *hash, const void *bytes, size_t size) {
    CHECK(EVP_DigestUpdate(hash->context, bytes, size) == 1);
}

void sha256_finish_hex(Sha256 *hash, char out_hex[65]) {
    unsigned char digest[32];
    CHECK(EVP_DigestFinal_ex(hash->context, digest, NULL) == 1);
    EVP_MD_CTX_free(hash->context);
    hash->context = NULL;
    for (int i = 0; i < 32; i++) {
        out_hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        out_hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    out_hex[64] = 0;
}

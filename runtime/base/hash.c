#include "runtime/base/hash.h"

#define XXH_INLINE_ALL
#include <openssl/evp.h>
#include <xxhash.h>

#include "runtime/base/invariant.h"

uint64_t hash_xxh3(const void *bytes, size_t size, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, size, seed);
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

#ifndef RUNTIME_BASE_HASH_H
#define RUNTIME_BASE_HASH_H

/* XXH3-64 for checksums and digests that guard against accidents, SHA-256 where somebody might choose the
 * input. Same value on every machine. */

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

uint64_t hash_xxh3(const void *bytes, size_t size, uint64_t seed);

typedef struct Sha256 {
    void *context; /* owned: EVP_MD_CTX */
} Sha256;

Status sha256_begin(Sha256 *out);
void sha256_add(Sha256 *hash, const void *bytes, size_t size);
/* Writes 64 lower-case hex digits and a NUL, and frees the context. */
void sha256_finish_hex(Sha256 *hash, char out_hex[65]);

SPILLWAY_EXTERN_C_END

#endif

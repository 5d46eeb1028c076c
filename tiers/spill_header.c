#include "tiers/spill_header.h"

#include <assert.h>
#include <string.h>

#include "runtime/base/hash.h"

enum { SPILL_MAGIC = 0x4c495053, SPILL_VERSION = 2 }; /* "SPIL" */

static_assert(sizeof(SpillHeader) == 64, "the header is one cache line");

static SpillHeader header_of(const SpillExpectation *expectation) {
    return (SpillHeader){.magic = SPILL_MAGIC,
                         .version = SPILL_VERSION,
                         .form = (uint8_t)expectation->form,
                         .header_bytes = sizeof(SpillHeader),
                         .payload_bytes = expectation->payload_bytes,
                         .slot = expectation->slot,
                         .generation = expectation->generation,
                         .ordinal = expectation->ordinal,
                         .identity = *expectation->identity};
}

static uint64_t seed_of(const SpillHeader *header) {
    return hash_xxh3(header, sizeof *header, 0);
}

uint64_t spill_header_seed(const SpillExpectation *expectation) {
    SpillHeader header = header_of(expectation);
    return seed_of(&header);
}

static uint64_t payload_hash(const void *block, const SpillExpectation *expectation) {
    return hash_xxh3((const uint8_t *)block + sizeof(SpillHeader), expectation->payload_bytes,
                     spill_header_seed(expectation));
}

void spill_header_seal_hashed(void *block, const SpillExpectation *expectation, uint64_t hash) {
    SpillHeader header = header_of(expectation);
    header.checksum = hash;
    memcpy(block, &header, sizeof header);
}

void spill_header_seal(void *block, const SpillExpectation *expectation) {
    spill_header_seal_hashed(block, expectation, payload_hash(block, expectation));
}

bool spill_header_claims(const void *block, const SpillExpectation *expectation,
                         uint64_t *out_hash) {
    SpillHeader found, wanted = header_of(expectation);
    memcpy(&found, block, sizeof found);
    *out_hash = found.checksum;
    found.checksum = 0;
    return !memcmp(&found, &wanted, sizeof found);
}

bool spill_header_matches(const void *block, const SpillExpectation *expectation) {
    uint64_t hash;
    return spill_header_claims(block, expectation, &hash) &&
           hash == payload_hash(block, expectation);
}

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

void spill_header_seal(void *block, const SpillExpectation *expectation) {
    SpillHeader header = header_of(expectation);
    header.checksum =
        hash_xxh3((const uint8_t *)block + sizeof header, header.payload_bytes, seed_of(&header));
    memcpy(block, &header, sizeof header);
}

bool spill_header_claims(const void *block, const SpillExpectation *expectation,
                         SpillClaim *out_claim) {
    SpillHeader found, wanted = header_of(expectation);
    memcpy(&found, block, sizeof found);
    *out_claim = (SpillClaim){found.checksum, seed_of(&wanted)};
    found.checksum = 0;
    return !memcmp(&found, &wanted, sizeof found);
}

bool spill_header_matches(const void *block, const SpillExpectation *expectation) {
    SpillClaim claim;
    return spill_header_claims(block, expectation, &claim) &&
           claim.hash == hash_xxh3((const uint8_t *)block + sizeof(SpillHeader),
                                   expectation->payload_bytes, claim.seed);
}

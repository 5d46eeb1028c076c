#ifndef TIERS_SPILL_HEADER_H
#define TIERS_SPILL_HEADER_H

/* What stands before the bytes of every block that has left the device: whose they are, and a checksum. A copy whose header is
 * not the one asked for, or whose checksum is not that of its bytes, is a miss, whatever else may be right about it. */

#include "tiers/block.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct SpillHeader {
    uint32_t magic;
    uint8_t version, form; /* Block.form of the payload */
    uint16_t header_bytes;
    uint32_t payload_bytes;
    uint32_t slot;       /* where it was written: a misdirected read shows */
    uint32_t generation; /* of the block's record: a stale read shows */
    uint32_t ordinal;
    uint64_t
        checksum; /* XXH3-64 of the payload, seeded with that of the header (this field zero) */
    BlockIdentity identity;
} SpillHeader;

/* What a reader expects; payload_bytes follow the header in memory. */
typedef struct SpillExpectation {
    const BlockIdentity *identity;
    uint32_t form, payload_bytes, slot, generation, ordinal;
} SpillExpectation;

/* `block` is header and payload, side by side. */
void spill_header_seal(void *block, const SpillExpectation *expectation);
bool spill_header_matches(const void *block, const SpillExpectation *expectation);

/* The same for who has the payload hashed elsewhere, by XXH3-64 under this seed. */
uint64_t spill_header_seed(const SpillExpectation *expectation);
void spill_header_seal_hashed(void *block, const SpillExpectation *expectation, uint64_t hash);
/* Is the header the expected one? Then *out_hash is what that of the payload must be. */
bool spill_header_claims(const void *block, const SpillExpectation *expectation,
                         uint64_t *out_hash);

SPILLWAY_EXTERN_C_END

#endif

#ifndef RUNTIME_ENGINE_KV_ENCODER_H
#define RUNTIME_ENGINE_KV_ENCODER_H

/* Encodes cold blocks behind the step's back: a thread of its own takes them from a bounded queue while the layers
 * go on. When an encoded block is used is the cache's business (kv_pack.c), so that what attention reads never depends on how fast
 * this is. The bytes of a job belong to the encoder from submit to wait. One owner thread; nothing is allocated after create. */

#include "runtime/engine/kv_layout.h"

SPILLWAY_EXTERN_C_BEGIN

enum { KV_PACK_BLOCKS_MAX = KV_ENCODE_BLOCKS_MAX, KV_ENCODER_JOBS_MAX = 64 };

typedef struct KvEncoder KvEncoder;

typedef struct KvEncoderJob {
    const void *blocks[KV_PACK_BLOCKS_MAX]; /* [block_count] raw */
    uint32_t block_count;
    uint8_t *out_bytes; /* [block_count][layout.encoded_bytes] inside a pack */
} KvEncoderJob;

/* Starts the thread. The layout has a codec; kernels are borrowed. */
Status kv_encoder_create(KvEncoder **out, const Kernels *kernels, const KvLayout *layout);
void kv_encoder_destroy(KvEncoder *encoder); /* no job is out; takes NULL */

/* Index of the job, for kv_encoder_wait. KV_ENCODER_JOBS_MAX may be out at once. */
uint32_t kv_encoder_submit(KvEncoder *encoder, const KvEncoderJob *job);

/* The job's end: does it itself where the thread has not begun. STATUS_BAD_INPUT, raised by nobody yet: a number is not finite. */
Status kv_encoder_wait(KvEncoder *encoder, uint32_t job_index);

/* Seconds that encoding took on either thread, and those that the owner spent in kv_encoder_wait. */
double kv_encoder_seconds(const KvEncoder *encoder);
double kv_encoder_seconds_waited(const KvEncoder *encoder);

SPILLWAY_EXTERN_C_END

#endif

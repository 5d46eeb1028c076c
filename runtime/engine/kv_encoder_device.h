#ifndef RUNTIME_ENGINE_KV_ENCODER_DEVICE_H
#define RUNTIME_ENGINE_KV_ENCODER_DEVICE_H

/* Encodes cold blocks where the host cannot reach them: on the device, in turn with its other work. Jobs and owner as in kv_encoder.h;
 * the host waits for none before it asks for its end. */

#include "runtime/engine/kv_encoder.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvDeviceEncoder KvDeviceEncoder;

/* The layout has a codec that the device knows; all else is borrowed. */
Status kv_device_encoder_create(KvDeviceEncoder **out, Device *device, const Kernels *kernels,
                                const KernelContext *context, const KvLayout *layout);
void kv_device_encoder_destroy(KvDeviceEncoder *encoder); /* no job is out; takes NULL */

uint32_t kv_device_encoder_submit(KvDeviceEncoder *encoder, const KvEncoderJob *job);
/* As kv_encoder_wait, or what the device says. */
Status kv_device_encoder_wait(KvDeviceEncoder *encoder, uint32_t job_index);

SPILLWAY_EXTERN_C_END

#endif

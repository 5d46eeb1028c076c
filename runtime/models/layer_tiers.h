#ifndef RUNTIME_MODELS_LAYER_TIERS_H
#define RUNTIME_MODELS_LAYER_TIERS_H

/* The packed matrices of the layers over device, host memory and files. The loader binds a model twice: first it only measures, then,
 * with each matrix placed, it packs layer by layer. Where the host can address the device, what is in host memory is used
 * where it lies, and what is in files in the frames of a WeightStream; on any other device both come through its DeviceFrames.
 * Start-up but for acquire, release and expect; the thread of the rank. */

#include "runtime/models/model.h"
#include "runtime/weights/device_frames.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct LayerTiers LayerTiers;

/* compute: the stream that the backend packs and computes on; NULL where the host can address the device. */
Status layer_tiers_create(LayerTiers **out, const ModelConfig *config, Device *device,
                          DeviceStream *compute);
void layer_tiers_destroy(LayerTiers *tiers); /* takes NULL */

/* Measuring: the next matrix, in layer order. */
Status layer_tiers_add(LayerTiers *tiers, const char *name, uint32_t layer, uint64_t bytes,
                       Matrix *matrix);
/* A tier for each. E-USAGE when files are needed, but none, or fewer bytes, are allowed. */
Status layer_tiers_place(LayerTiers *tiers, const WeightTierOptions *options);
/* That much of them on the device, the rest in files, wherever those would be. */
void layer_tiers_try(LayerTiers *tiers, double device_per_cent);
/* Fills what `out` says of layers and frames. */
void layer_tiers_sizes(const LayerTiers *tiers, ModelSizes *out);

/* Loading: files and frames (E-PACKED-WEIGHTS: the file holds other matrices), then memory for each matrix in the order of layer_tiers_add. */
Status layer_tiers_open(LayerTiers *tiers, const WeightTierOptions *options);
typedef struct LayerPlace {
    Tier tier;
    void *
        memory; /* where matrix_pack may put it; NULL: TIER_DEVICE's, which the caller takes, or TIER_NVME's that are packed already */
    const PackedPiece *packed; /* what the matrix is read from; NULL: to be packed */
} LayerPlace;

Status layer_tiers_next(LayerTiers *tiers, uint64_t bytes, LayerPlace *out);
Status layer_tiers_finish(LayerTiers *tiers);

/* As layer_order_expect: what the pass that begins will use. */
void layer_tiers_expect(LayerTiers *tiers, const uint32_t *layers, uint32_t layer_count,
                        uint32_t then);

/* Makes those matrices of the layer point to their bytes that come by, until another layer is acquired, or it is released. E-WEIGHTS-IO,
 * E-DEVICE. */
Status layer_tiers_acquire(LayerTiers *tiers, uint32_t layer);
Status layer_tiers_release(LayerTiers *tiers);

WeightStream *layer_tiers_stream(const LayerTiers *tiers); /* NULL when nothing lies in files */
uint64_t layer_tiers_sent_bytes(const LayerTiers *tiers);  /* through DeviceFrames so far */

SPILLWAY_EXTERN_C_END

#endif

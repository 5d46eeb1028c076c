#ifndef RUNTIME_MODELS_LAYER_TIERS_H
#define RUNTIME_MODELS_LAYER_TIERS_H

/* The packed matrices of the layers over device, host memory and files. The loader binds a model twice: first it only measures, then,
 * with each matrix placed, it packs layer by layer. What is in host memory is used where it lies, which a backend whose
 * kernels read host memory can; what is in files comes through the frames of a WeightStream. Start-up but for acquire,
 * release and expect; the thread of the rank. */

#include "runtime/models/model.h"
#include "runtime/weights/weight_stream.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct LayerTiers LayerTiers;

Status layer_tiers_create(LayerTiers **out, const ModelConfig *config);
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
Status layer_tiers_open(LayerTiers *tiers, Device *device, const WeightTierOptions *options);
typedef struct LayerPlace {
    Tier tier;
    void *
        memory; /* NULL: TIER_DEVICE's, which the caller takes, or TIER_NVME's that are packed already */
    const PackedPiece *packed; /* what the matrix is read from; NULL: to be packed */
} LayerPlace;

Status layer_tiers_next(LayerTiers *tiers, uint64_t bytes, LayerPlace *out);
Status layer_tiers_finish(LayerTiers *tiers);

/* Makes the layer's streamed matrices point to its bytes, until another layer is acquired, or it is released. E-WEIGHTS-IO. */
Status layer_tiers_acquire(LayerTiers *tiers, uint32_t layer);
void layer_tiers_release(LayerTiers *tiers);

WeightStream *layer_tiers_stream(const LayerTiers *tiers); /* NULL when nothing streams */

SPILLWAY_EXTERN_C_END

#endif

#ifndef LAUNCH_MODEL_DEFAULTS_H
#define LAUNCH_MODEL_DEFAULTS_H

/* Sampling defaults: an option that was given wins, else what the model's generation_config.json says, else the
 * option's default. */

#include "launch/settings.h"
#include "runtime/engine/request.h"
#include "runtime/weights/weights.h"

SPILLWAY_EXTERN_C_BEGIN

/* E-HF-CONFIG when generation_config.json is no JSON or a value is out of range. */
Status model_defaults_read(const Settings *settings, const Weights *weights, SamplingOptions *out);

SPILLWAY_EXTERN_C_END

#endif

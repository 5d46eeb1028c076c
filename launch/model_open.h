#ifndef LAUNCH_MODEL_OPEN_H
#define LAUNCH_MODEL_OPEN_H

/* --model, --weight-type and --random-weights to weights. */

#include "launch/settings.h"
#include "runtime/weights/weights.h"

SPILLWAY_EXTERN_C_BEGIN

/* Close with weights_close. shapes: open without --random-weights, too: for looking at them. E-USAGE: that flag, and the model has
 * numbers of its own. */
Status model_open(const Settings *settings, bool shapes, Weights **out);

SPILLWAY_EXTERN_C_END

#endif

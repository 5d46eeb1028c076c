#ifndef TESTS_RUNTIME_WEIGHTS_LISTING_H
#define TESTS_RUNTIME_WEIGHTS_LISTING_H

/* All that a Weights says, as text in the form of tests/golden/weights/make_weights.py: one line a key and a tensor. */

#include "runtime/weights/weights.h"

/* with_places: file and offset of each tensor. free() it */
char *weights_listing(const Weights *weights, bool with_places);

#endif

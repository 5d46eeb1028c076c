#ifndef TESTS_RUNTIME_WEIGHTS_LISTING_H
#define TESTS_RUNTIME_WEIGHTS_LISTING_H

/* All that a Weights says, as text in the form of tests/golden/weights/make_weights.py: one line a key and a tensor. */

#include "runtime/weights/weights.h"

/* free() it */
char *weights_listing(const Weights *weights);

/* Opens golden/weights/<path> and compares with golden/weights/<listing> (cmocka assertion). */
void assert_golden_weights(const char *path, const char *listing);

/* Opens the path, which must be refused with this code and a text that holds `fragment` (cmocka assertion). */
void assert_weights_refused(const char *path, const char *code, const char *fragment);

#endif

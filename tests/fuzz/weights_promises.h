#ifndef TESTS_FUZZ_WEIGHTS_PROMISES_H
#define TESTS_FUZZ_WEIGHTS_PROMISES_H

/* What must hold of weights that were accepted, whatever the file. */

#include "runtime/weights/weights.h"

/* Opens the path without logging; NULL when it is refused. A refusal must say what and where in one line. */
Weights *open_quietly(const char *path);

/* Every byte of every tensor can be read, spans do not overlap, every name finds itself, every value can be read. */
void check_weights_promises(const Weights *weights);

#endif

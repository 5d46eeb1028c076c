#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>

void fuzz_promise_broken(const char *file, int line, const char *expression) {
    fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, expression);
    abort();
}

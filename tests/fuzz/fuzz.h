#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

/* What a target exports: libFuzzer calls it with inputs of its own, replay.c with the files of a corpus. It returns 0; a broken
 * promise aborts. */

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Aborts, naming the line, also in release builds. */
#define PROMISE(expression)                                                      \
    do {                                                                         \
        if (!(expression)) fuzz_promise_broken(__FILE__, __LINE__, #expression); \
    } while (0)

void fuzz_promise_broken(const char *file, int line, const char *expression)
    __attribute__((noreturn));

#endif

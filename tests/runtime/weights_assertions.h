#ifndef TESTS_RUNTIME_WEIGHTS_ASSERTIONS_H
#define TESTS_RUNTIME_WEIGHTS_ASSERTIONS_H

/* Assertions of cmocka tests about whole weight files. */

/* Opens golden/weights/<path> and compares its listing with golden/weights/<listing>. */
void assert_golden_weights(const char *path, const char *listing);

/* Opens the path, which must be refused with this code and a text that holds `fragment`. */
void assert_weights_refused(const char *path, const char *code, const char *fragment);

#endif

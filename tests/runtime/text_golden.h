#ifndef TESTS_RUNTIME_TEXT_GOLDEN_H
#define TESTS_RUNTIME_TEXT_GOLDEN_H

/* The frozen texts of tests/golden/text and the ids that original tokenizers give for them. */

#include "runtime/text/tokenizer.h"

/* Encodes every text with special tokens parsed and none added, and decodes the ids at once and piece by piece; all must
 * equal the golden file. */
void assert_golden_ids(const Tokenizer *tokenizer, const char *ids_name);

#endif

#ifndef TESTS_RUNTIME_TEXT_GOLDEN_H
#define TESTS_RUNTIME_TEXT_GOLDEN_H

/* The frozen texts of tests/golden/text and the ids that original tokenizers give for them. */

#include "runtime/text/tokenizer.h"

/* The tokenizer of NAME.json, of NAME.gguf. */
Tokenizer *golden_json_tokenizer(const char *name);
Tokenizer *golden_gguf_tokenizer(const char *name);

/* Encodes every text with special tokens parsed and none added, and decodes the ids at once and piece by piece; all must
 * equal NAME.ids. */
void assert_golden_ids(const Tokenizer *tokenizer, const char *name);

#endif

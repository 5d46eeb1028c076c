#ifndef RUNTIME_TEXT_TOKENIZER_JSON_PARTS_H
#define RUNTIME_TEXT_TOKENIZER_JSON_PARTS_H

/* The typed parts of tokenizer.json: {"type": "NFC", …} or a "Sequence" of such. What has no row is refused by name. */

#include "runtime/text/json_place.h"
#include "runtime/text/tokenizer_parts.h"

SPILLWAY_EXTERN_C_BEGIN

/* A file while it is loaded. */
typedef struct JsonLoad {
    Tokenizer *tokenizer;
    bool byte_level; /* the pre-tokenizer ends in ByteLevel: the model is on bytes */
    bool fused;      /* the decoder has joined tokens: what follows is done to the text */
} JsonLoad;

typedef struct JsonPartRow {
    const char *type;
    Status (*load)(JsonLoad *load, const JsonPlace *place);
} JsonPartRow;

/* Loads one part by its type. list_key: the member that holds the parts of a "Sequence"; NULL: there is no such type. */
Status json_load_part(JsonLoad *load, const JsonPlace *place, const JsonPartRow *rows,
                      size_t row_count, const char *list_key);

/* From the file's root; absent parts do nothing, but there must be a decoder. */
Status json_load_normalizer(JsonLoad *load, const JsonPlace *root);
Status json_load_pre_tokenizer(JsonLoad *load, const JsonPlace *root);
Status json_load_decoder(JsonLoad *load, const JsonPlace *root);
Status json_load_post_processor(JsonLoad *load, const JsonPlace *root);

SPILLWAY_EXTERN_C_END

#endif

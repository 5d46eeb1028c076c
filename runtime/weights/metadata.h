#ifndef RUNTIME_WEIGHTS_METADATA_H
#define RUNTIME_WEIGHTS_METADATA_H

/* Values of metadata in GGUF's encoding: little-endian numbers at any alignment, strings as a 64-bit length and bytes. Arrays
 * of every format are kept so, in the mapped file or (config.json) in the pool of the Weights. Private to runtime/weights. */

#include "runtime/weights/weights_builder.h"

SPILLWAY_EXTERN_C_BEGIN

/* Numbers as in GGUF files. */
typedef enum ValueEncoding {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_ENCODING_COUNT,
} ValueEncoding;

typedef struct ValueType {
    const char *name;
    MetadataType type;
    uint32_t bytes;                          /* least that a value takes */
    int64_t (*load_integer)(const void *at); /* NULL for reals, strings and arrays */
    double (*load_real)(const void *at);     /* NULL for strings and arrays */
} ValueType;

const ValueType *value_type(ValueEncoding encoding);

/* Sets type, boolean, integer and real of *metadata from a number or bool; false for a bool other than 0 and 1. */
bool metadata_load_scalar(Metadata *metadata, ValueEncoding encoding, const void *at);

/* Sets type and elements of *metadata. bytes: element_count encoded elements, checked by the caller (string lengths lie
 * within), which outlive the Weights. */
Status metadata_set_array(Weights *weights, Metadata *metadata, ValueEncoding encoding,
                          const void *bytes, uint64_t element_count);

SPILLWAY_EXTERN_C_END

#endif

#include "runtime/weights/metadata.h"

#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

#pragma GCC diagnostic error "-Wconversion"
#pragma GCC diagnostic error "-Wsign-conversion"

/* The start of every STRING_STRIDE-th string of an array is kept: a string is found by walking over at most that many. */
enum { STRING_STRIDE = 16 };

typedef struct ArrayElements {
    const ValueType *type;
    const uint8_t *bytes;
    const uint64_t *string_starts; /* [count / STRING_STRIDE, rounded up]; strings only */
} ArrayElements;

#define DEFINE_REAL_LOAD(name, c_type)          \
    static double real_##name(const void *at) { \
        c_type value;                           \
        memcpy(&value, at, sizeof value);       \
        return (double)value;                   \
    }
#define DEFINE_INTEGER_LOAD(name, c_type)           \
    static int64_t integer_##name(const void *at) { \
        c_type value;                               \
        memcpy(&value, at, sizeof value);           \
        return (int64_t)value;                      \
    }

DEFINE_REAL_LOAD(u8, uint8_t)
DEFINE_REAL_LOAD(i8, int8_t)
DEFINE_REAL_LOAD(u16, uint16_t)
DEFINE_REAL_LOAD(i16, int16_t)
DEFINE_REAL_LOAD(u32, uint32_t)
DEFINE_REAL_LOAD(i32, int32_t)
DEFINE_REAL_LOAD(u64, uint64_t)
DEFINE_REAL_LOAD(i64, int64_t)
DEFINE_REAL_LOAD(f32, float)
DEFINE_REAL_LOAD(f64, double)

DEFINE_INTEGER_LOAD(u8, uint8_t)
DEFINE_INTEGER_LOAD(i8, int8_t)
DEFINE_INTEGER_LOAD(u16, uint16_t)
DEFINE_INTEGER_LOAD(i16, int16_t)
DEFINE_INTEGER_LOAD(u32, uint32_t)
DEFINE_INTEGER_LOAD(i32, int32_t)
DEFINE_INTEGER_LOAD(i64, int64_t)

static int64_t integer_u64(const void *at) {
    uint64_t value = load_u64(at);
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

static const ValueType value_types[VALUE_ENCODING_COUNT] = {
    [VALUE_U8] = {"u8", METADATA_INTEGER, 1, integer_u8, real_u8},
    [VALUE_I8] = {"i8", METADATA_INTEGER, 1, integer_i8, real_i8},
    [VALUE_U16] = {"u16", METADATA_INTEGER, 2, integer_u16, real_u16},
    [VALUE_I16] = {"i16", METADATA_INTEGER, 2, integer_i16, real_i16},
    [VALUE_U32] = {"u32", METADATA_INTEGER, 4, integer_u32, real_u32},
    [VALUE_I32] = {"i32", METADATA_INTEGER, 4, integer_i32, real_i32},
    [VALUE_F32] = {"f32", METADATA_REAL, 4, NULL, real_f32},
    [VALUE_BOOL] = {"bool", METADATA_BOOL, 1, integer_u8, real_u8},
    [VALUE_STRING] = {"string", METADATA_STRING, 8, NULL, NULL},
    [VALUE_ARRAY] = {"array", METADATA_ARRAY, 12, NULL, NULL},
    [VALUE_U64] = {"u64", METADATA_INTEGER, 8, integer_u64, real_u64},
    [VALUE_I64] = {"i64", METADATA_INTEGER, 8, integer_i64, real_i64},
    [VALUE_F64] = {"f64", METADATA_REAL, 8, NULL, real_f64},
};

const ValueType *value_type(ValueEncoding encoding) {
    CHECK(encoding < VALUE_ENCODING_COUNT);
    return &value_types[encoding];
}

bool metadata_load_scalar(Metadata *metadata, ValueEncoding encoding, const void *at) {
    const ValueType *type = value_type(encoding);
    metadata->type = type->type;
    metadata->real = type->load_real(at);
    if (type->load_integer) metadata->integer = type->load_integer(at);
    if (encoding == VALUE_U64 && load_u64(at) > INT64_MAX) metadata->type = METADATA_REAL;
    if (type->type != METADATA_BOOL) return true;
    metadata->boolean = metadata->integer != 0;
    return metadata->integer == 0 || metadata->integer == 1;
}

static Status note_string_starts(Weights *weights, ArrayElements *elements, uint64_t count) {
    void *taken = NULL;
    TRY(weights_take(weights, divide_up(count, STRING_STRIDE) * sizeof(uint64_t), &taken));
    uint64_t *starts = taken;
    uint64_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (i % STRING_STRIDE == 0) starts[i / STRING_STRIDE] = at;
        at += sizeof(uint64_t) + load_u64(elements->bytes + at);
    }
    elements->string_starts = starts;
    return STATUS_OK;
}

Status metadata_set_array(Weights *weights, Metadata *metadata, ValueEncoding encoding,
                          const void *bytes, uint64_t element_count) {
    void *taken = NULL;
    TRY(weights_take(weights, sizeof(ArrayElements), &taken));
    ArrayElements *elements = taken;
    *elements = (ArrayElements){.type = value_type(encoding), .bytes = bytes};
    if (encoding == VALUE_STRING) TRY(note_string_starts(weights, elements, element_count));
    metadata->type = METADATA_ARRAY;
    metadata->element_type = element_count ? elements->type->type : METADATA_NULL;
    metadata->element_count = element_count;
    metadata->array = elements;
    return STATUS_OK;
}

static const ArrayElements *elements_of(const Metadata *array, size_t index) {
    CHECK(array->type == METADATA_ARRAY && index < array->element_count && array->array);
    return array->array;
}

const char *weights_array_string(const Metadata *array, size_t index, size_t *out_bytes) {
    const ArrayElements *elements = elements_of(array, index);
    CHECK(elements->string_starts);
    const uint8_t *at = elements->bytes + elements->string_starts[index / STRING_STRIDE];
    for (size_t i = index % STRING_STRIDE; i > 0; i--)
        at += sizeof(uint64_t) + load_u64(at);
    *out_bytes = load_u64(at);
    return (const char *)at + sizeof(uint64_t);
}

int64_t weights_array_integer(const Metadata *array, size_t index) {
    const ArrayElements *elements = elements_of(array, index);
    CHECK(elements->type->load_integer);
    return elements->type->load_integer(elements->bytes + index * elements->type->bytes);
}

double weights_array_real(const Metadata *array, size_t index) {
    const ArrayElements *elements = elements_of(array, index);
    CHECK(elements->type->load_real && elements->type->type != METADATA_BOOL);
    return elements->type->load_real(elements->bytes + index * elements->type->bytes);
}

/* What a model file holds, without reading its numbers: format, metadata, tensors, totals. */

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "launch/command.h"
#include "launch/model_open.h"
#include "runtime/base/invariant.h"

enum {
    ELEMENTS_SHOWN_MAX = 8, /* of an array */
    TEXT_BYTES_SHOWN_MAX = 80,
    KEY_COLUMN_MAX = 48,
    TYPES_MAX = 64, /* above the number of types that all formats have together */
    JSON_INDENT_SPACES = 2,
};

/* ---- sums ---- */

typedef struct TypeTotal {
    const char *type_name;
    bool supported;
    uint64_t tensor_count, element_count, bytes;
} TypeTotal;

typedef struct Totals {
    TypeTotal types[TYPES_MAX]; /* in the order of their first tensor */
    size_t type_count;
    TypeTotal all;
    size_t file_count;
} Totals;

static uint64_t element_count(const Tensor *tensor) {
    uint64_t count = 1;
    for (uint32_t i = 0; i < tensor->dim_count; i++)
        count *= tensor->shape[i];
    return count;
}

static TypeTotal *total_of(Totals *totals, const NamedTensor *named) {
    for (size_t i = 0; i < totals->type_count; i++)
        if (strcmp(totals->types[i].type_name, named->type_name) == 0) return &totals->types[i];
    CHECK(totals->type_count < TYPES_MAX);
    TypeTotal *total = &totals->types[totals->type_count++];
    *total = (TypeTotal){.type_name = named->type_name, .supported = named->tensor.quant != NULL};
    return total;
}

static void add_tensor(TypeTotal *total, const Tensor *tensor) {
    total->tensor_count++;
    total->element_count += element_count(tensor);
    total->bytes += tensor->bytes;
}

static Totals sum_up(const Weights *weights) {
    Totals totals = {.all = {.type_name = "all"}};
    const char *file = NULL;
    for (size_t i = 0; i < weights_tensor_count(weights); i++) {
        const NamedTensor *named = weights_tensor(weights, i);
        add_tensor(total_of(&totals, named), &named->tensor);
        add_tensor(&totals.all, &named->tensor);
        if (named->file != file) totals.file_count++; /* tensors come file by file */
        file = named->file;
    }
    return totals;
}

/* ---- values ---- */

static const char *type_word(MetadataType type) {
    static const char *const words[] = {"null", "bool", "integer", "real", "string", "array"};
    return words[type];
}

/* GGUF and config.json say it in different places. */
static void find_architecture(const Weights *weights, const char **out, size_t *out_bytes) {
    const Metadata *named = weights_metadata_find(weights, "general.architecture");
    const Metadata *listed = weights_metadata_find(weights, "architectures");
    *out = "unknown";
    *out_bytes = strlen(*out);
    if (named && named->type == METADATA_STRING) {
        *out = named->string;
        *out_bytes = named->string_bytes;
    } else if (listed && listed->element_count > 0 && listed->element_type == METADATA_STRING) {
        *out = weights_array_string(listed, 0, out_bytes);
    }
}

/* ---- for people ---- */

/* The beginning of a text; what a terminal could take for a command is escaped. */
static void print_text(const char *text, size_t text_bytes) {
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    size_t at = 0;
    while (at < text_bytes && at < TEXT_BYTES_SHOWN_MAX) {
        utf8proc_int32_t codepoint;
        utf8proc_ssize_t used =
            utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(text_bytes - at), &codepoint);
        bool plain = used > 0 && utf8proc_category(codepoint) != UTF8PROC_CATEGORY_CC;
        if (plain)
            fwrite(bytes + at, 1, (size_t)used, stdout);
        else if (bytes[at] == '\n')
            fputs("\\n", stdout);
        else
            printf("\\x%02x", bytes[at]);
        at += plain ? (size_t)used : 1;
    }
    if (at < text_bytes) printf("… (%zu bytes)", text_bytes);
}

static void print_element(const Metadata *array, size_t index) {
    size_t text_bytes = 0;
    const char *text;
    switch (array->element_type) {
    case METADATA_BOOL:
        fputs(weights_array_integer(array, index) ? "true" : "false", stdout);
        break;
    case METADATA_INTEGER: printf("%" PRId64, weights_array_integer(array, index)); break;
    case METADATA_REAL: printf("%.9g", weights_array_real(array, index)); break;
    default:
        text = weights_array_string(array, index, &text_bytes);
        putchar('"');
        print_text(text, text_bytes);
        putchar('"');
    }
}

static void print_array(const Metadata *array) {
    bool readable = array->element_type != METADATA_NULL;
    printf("%zu %s", array->element_count, readable ? type_word(array->element_type) : "mixed");
    for (size_t i = 0; readable && i < array->element_count && i < ELEMENTS_SHOWN_MAX; i++) {
        fputs(i == 0 ? ": " : ", ", stdout);
        print_element(array, i);
    }
    if (readable && array->element_count > ELEMENTS_SHOWN_MAX) fputs(", …", stdout);
}

static void print_value(const Metadata *entry) {
    switch (entry->type) {
    case METADATA_NULL: fputs("null", stdout); break;
    case METADATA_BOOL: fputs(entry->boolean ? "true" : "false", stdout); break;
    case METADATA_INTEGER: printf("%" PRId64, entry->integer); break;
    case METADATA_REAL: printf("%.9g", entry->real); break;
    case METADATA_STRING: print_text(entry->string, entry->string_bytes); break;
    case METADATA_ARRAY: print_array(entry);
    }
}

static void print_metadata(const Weights *weights) {
    size_t width = 0;
    for (size_t i = 0; i < weights_metadata_count(weights); i++) {
        size_t key_bytes = strlen(weights_metadata(weights, i)->key);
        if (key_bytes > width && key_bytes <= KEY_COLUMN_MAX) width = key_bytes;
    }
    printf("\nmetadata\n");
    for (size_t i = 0; i < weights_metadata_count(weights); i++) {
        const Metadata *entry = weights_metadata(weights, i);
        printf("  %-*s  %-7s  ", (int)width, entry->key, type_word(entry->type));
        print_value(entry);
        putchar('\n');
    }
}

static void print_tensors(const Weights *weights) {
    size_t width = 0;
    for (size_t i = 0; i < weights_tensor_count(weights); i++) {
        size_t name_bytes = strlen(weights_tensor(weights, i)->name);
        if (name_bytes > width && name_bytes <= KEY_COLUMN_MAX) width = name_bytes;
    }
    printf("\ntensors\n");
    for (size_t i = 0; i < weights_tensor_count(weights); i++) {
        const NamedTensor *named = weights_tensor(weights, i);
        printf("  %-*s  %-8s  %12" PRIu64 " bytes  [", (int)width, named->name, named->type_name,
               named->tensor.bytes);
        for (uint32_t dim = 0; dim < named->tensor.dim_count; dim++)
            printf("%s%" PRIu64, dim ? ", " : "", named->tensor.shape[dim]);
        printf("]\n");
    }
}

static void print_total(const TypeTotal *total) {
    printf("  %-8s  %6" PRIu64 " tensors  %14" PRIu64 " elements  %14" PRIu64
           " bytes  %6.3f bits an element%s\n",
           total->type_name, total->tensor_count, total->element_count, total->bytes,
           8.0 * (double)total->bytes / (double)total->element_count,
           total->supported ? "" : ", not supported");
}

static void print_text_report(const Weights *weights) {
    Totals totals = sum_up(weights);
    size_t architecture_bytes;
    const char *architecture;
    find_architecture(weights, &architecture, &architecture_bytes);
    printf("model         %s\nformat        %s\narchitecture  ", weights_path(weights),
           weights_format_name(weights));
    print_text(architecture, architecture_bytes);
    printf("\nfingerprint   %016" PRIx64 "\ntensors       %" PRIu64
           " in %zu %s\nelements      %" PRIu64 "\nbytes         %" PRIu64 " (%.1f MiB)\n",
           weights_fingerprint(weights), totals.all.tensor_count, totals.file_count,
           totals.file_count == 1 ? "file" : "files", totals.all.element_count, totals.all.bytes,
           (double)totals.all.bytes / (1 << 20));
    print_metadata(weights);
    print_tensors(weights);
    printf("\ntotals\n");
    for (size_t i = 0; i < totals.type_count; i++)
        print_total(&totals.types[i]);
}

/* ---- for programs ---- */

/* Texts of model files are not always UTF-8, JSON is: then every byte above ASCII becomes a question mark. */
static json_t *text_json(const char *text, size_t text_bytes) {
    json_t *string = json_stringn(text, text_bytes);
    if (string) return string;
    char *ascii = malloc(text_bytes);
    if (!ascii) return NULL;
    for (size_t i = 0; i < text_bytes; i++)
        ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
    string = json_stringn(ascii, text_bytes);
    free(ascii);
    return string;
}

static json_t *real_json(double real) {
    return isfinite(real) ? json_real(real) : json_null();
}

static json_t *element_json(const Metadata *array, size_t index) {
    size_t text_bytes = 0;
    const char *text;
    switch (array->element_type) {
    case METADATA_BOOL: return json_boolean(weights_array_integer(array, index));
    case METADATA_INTEGER: return json_integer(weights_array_integer(array, index));
    case METADATA_REAL: return real_json(weights_array_real(array, index));
    default: text = weights_array_string(array, index, &text_bytes);
    }
    return text_json(text, text_bytes);
}

/* A short array as it is, a long one as its count and beginning. */
static json_t *array_json(const Metadata *array) {
    bool readable = array->element_type != METADATA_NULL;
    json_t *elements = json_array();
    for (size_t i = 0; readable && i < array->element_count && i < ELEMENTS_SHOWN_MAX; i++)
        json_array_append_new(elements, element_json(array, i));
    if (json_array_size(elements) == array->element_count) return elements;
    return json_pack("{s:I, s:s, s:o}", "count", (json_int_t)array->element_count, "element_type",
                     type_word(array->element_type), "first", elements);
}

static json_t *value_json(const Metadata *entry) {
    switch (entry->type) {
    case METADATA_BOOL: return json_boolean(entry->boolean);
    case METADATA_INTEGER: return json_integer(entry->integer);
    case METADATA_REAL: return real_json(entry->real);
    case METADATA_STRING: return text_json(entry->string, entry->string_bytes);
    case METADATA_ARRAY: return array_json(entry);
    default: return json_null();
    }
}

static json_t *metadata_json(const Weights *weights) {
    json_t *object = json_object();
    for (size_t i = 0; i < weights_metadata_count(weights); i++) {
        const Metadata *entry = weights_metadata(weights, i);
        json_object_set_new(object, entry->key, value_json(entry));
    }
    return object;
}

static json_t *tensor_json(const NamedTensor *named) {
    json_t *shape = json_array();
    for (uint32_t i = 0; i < named->tensor.dim_count; i++)
        json_array_append_new(shape, json_integer((json_int_t)named->tensor.shape[i]));
    return json_pack("{s:s, s:s, s:b, s:o, s:I, s:o, s:I}", "name", named->name, "type",
                     named->type_name, "supported", named->tensor.quant != NULL, "shape", shape,
                     "bytes", (json_int_t)named->tensor.bytes, "file",
                     text_json(named->file, strlen(named->file)), "offset",
                     (json_int_t)named->file_offset);
}

static json_t *tensors_json(const Weights *weights) {
    json_t *list = json_array();
    for (size_t i = 0; i < weights_tensor_count(weights); i++)
        json_array_append_new(list, tensor_json(weights_tensor(weights, i)));
    return list;
}

static json_t *total_json(const TypeTotal *total) {
    return json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)total->tensor_count, "elements",
                     (json_int_t)total->element_count, "bytes", (json_int_t)total->bytes);
}

static json_t *totals_json(const Totals *totals) {
    json_t *types = json_object();
    for (size_t i = 0; i < totals->type_count; i++)
        json_object_set_new(types, totals->types[i].type_name, total_json(&totals->types[i]));
    json_t *object = total_json(&totals->all);
    json_object_set_new(object, "types", types);
    return object;
}

static Status print_json_report(const Weights *weights) {
    Totals totals = sum_up(weights);
    char fingerprint[17];
    size_t architecture_bytes;
    const char *architecture, *path = weights_path(weights);
    find_architecture(weights, &architecture, &architecture_bytes);
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, weights_fingerprint(weights));
    json_t *report = json_pack(
        "{s:o, s:s, s:o, s:s, s:o, s:o, s:o}", "model", text_json(path, strlen(path)), "format",
        weights_format_name(weights), "architecture", text_json(architecture, architecture_bytes),
        "fingerprint", fingerprint, "totals", totals_json(&totals), "metadata",
        metadata_json(weights), "tensors", tensors_json(weights));
    if (!report) FAIL(MEMORY, "the report on \"%s\" takes more memory than there is", path);
    json_dumpf(report, stdout, JSON_INDENT(JSON_INDENT_SPACES));
    putchar('\n');
    json_decref(report);
    return STATUS_OK;
}

static int inspect(const Settings *settings) {
    Weights *weights = NULL;
    weights_guard_install();
    Status status = model_open(settings, true, &weights);
    if (status != STATUS_OK) return error_exit_code(status);
    if (settings->json)
        status = print_json_report(weights);
    else
        print_text_report(weights);
    weights_close(weights);
    return error_exit_code(status);
}

const Command command_inspect[] = {
    {.name = "inspect",
     .summary = "show format, metadata and tensors of a model without loading it",
     .positionals = "model",
     .needs = "model",
     .takes = "model weight-type json",
     .run = inspect},
    {.name = NULL},
};

#include "launch/machine_file.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <jansson.h>

#include "launch/durable_file.h"
#include "launch/whole_file.h"

enum { FILE_BYTES_MAX = 1 << 20, REAL_DIGITS = 6 };
static const double number_min = 1e-15, number_max = 1e18; /* beside 0 */

#define FIELD(member) offsetof(PlanMachine, member)

typedef enum FieldKind { FIELD_REAL, FIELD_COUNT, FIELD_FLAG, FIELD_RATES } FieldKind;
typedef enum FieldNeed { OPTIONAL, POSITIVE } FieldNeed; /* POSITIVE: there, and above zero */

typedef struct Field {
    const char *section; /* NULL: at the top */
    const char *key;
    FieldKind kind;
    FieldNeed need;
    size_t offset;
} Field;

static const Field fields[] = {
    {NULL, "ranks", FIELD_COUNT, POSITIVE, FIELD(rank_count)},
    {NULL, "nodes", FIELD_COUNT, POSITIVE, FIELD(node_count)},
    {NULL, "threads", FIELD_COUNT, OPTIONAL, FIELD(thread_count)},
    {NULL, "cores", FIELD_COUNT, OPTIONAL, FIELD(core_count)},
    {NULL, "unified", FIELD_FLAG, OPTIONAL, FIELD(unified)},
    {"device", "bytes", FIELD_REAL, OPTIONAL, FIELD(device_bytes)},
    {"device", "read_bytes_per_second", FIELD_REAL, POSITIVE, FIELD(device_rate)},
    {"host", "bytes", FIELD_REAL, POSITIVE, FIELD(host_bytes)},
    {"host", "copy_bytes_per_second", FIELD_REAL, POSITIVE, FIELD(copy_rate)},
    {"link", "to_device_bytes_per_second", FIELD_REAL, OPTIONAL, FIELD(to_device_rate)},
    {"link", "from_device_bytes_per_second", FIELD_REAL, OPTIONAL, FIELD(from_device_rate)},
    {"disk", "bytes", FIELD_REAL, OPTIONAL, FIELD(disk_bytes)},
    {"disk", "read_bytes_per_second", FIELD_REAL, OPTIONAL, FIELD(disk_read_rate)},
    {"disk", "write_bytes_per_second", FIELD_REAL, OPTIONAL, FIELD(disk_write_rate)},
    {"disk", "seconds_per_transfer", FIELD_REAL, OPTIONAL, FIELD(disk_transfer_seconds)},
    {"disk", "core_seconds_per_byte", FIELD_REAL, OPTIONAL, FIELD(disk_core_seconds)},
    {"peers", "bytes_per_second", FIELD_REAL, OPTIONAL, FIELD(peer_rate)},
    {"peers", "seconds_per_collective", FIELD_REAL, OPTIONAL, FIELD(peer_seconds)},
    {"matmul", "float", FIELD_RATES, POSITIVE, FIELD(operation_rate[PLAN_FLOAT])},
    {"matmul", "8 bits", FIELD_RATES, POSITIVE, FIELD(operation_rate[PLAN_8_BITS])},
    {"matmul", "4 bits", FIELD_RATES, POSITIVE, FIELD(operation_rate[PLAN_4_BITS])},
    {"matmul", "head_speed", FIELD_REAL, OPTIONAL, FIELD(head_speed)},
    {"compute", "prompt_operations_per_second", FIELD_REAL, POSITIVE, FIELD(prompt_rate)},
    {"compute", "activation_bytes_per_second", FIELD_REAL, POSITIVE, FIELD(row_rate)},
    {"compute", "seconds_per_layer", FIELD_REAL, OPTIONAL, FIELD(layer_seconds)},
    {"compute", "seconds_per_sequence", FIELD_REAL, OPTIONAL, FIELD(sequence_seconds)},
    {"compute", "logits_per_second", FIELD_REAL, POSITIVE, FIELD(logit_rate)},
};

enum { FIELD_TOTAL = sizeof fields / sizeof *fields };

/* Beside those: texts, the rows that matmul rates are of, and attention by codec. */
static const char *const sections[] = {"device", "host",    "link",      "disk", "peers",
                                       "matmul", "compute", "attention", NULL};

/* ---- reading ---- */

typedef struct Reader {
    const char *path;
    PlanMachine *out;
} Reader;

static const Field *field_find(const char *section, const char *key) {
    for (size_t i = 0; i < FIELD_TOTAL; i++) {
        bool same_section = fields[i].section && section ? strcmp(fields[i].section, section) == 0
                                                         : fields[i].section == section;
        if (same_section && strcmp(fields[i].key, key) == 0) return &fields[i];
    }
    return NULL;
}

static bool is_section(const char *key) {
    for (size_t i = 0; sections[i]; i++)
        if (strcmp(sections[i], key) == 0) return true;
    return false;
}

static Status read_number(const Reader *reader, const char *key, const json_t *value, double *out) {
    double number = json_number_value(value);
    bool within = number == 0 || (number >= number_min && number <= number_max);
    if (!json_is_number(value) || !within)
        FAIL(MACHINE, "%s: %.60s: 0, or a number from 1e-15 to 1e18, is needed", reader->path, key);
    *out = number;
    return STATUS_OK;
}

static Status read_count(const Reader *reader, const char *key, const json_t *value,
                         uint32_t *out) {
    json_int_t count = json_integer_value(value);
    if (!json_is_integer(value) || count < 0 || count > 65536)
        FAIL(MACHINE, "%s: %.60s: a whole number from 0 to 65536 is needed", reader->path, key);
    *out = (uint32_t)count;
    return STATUS_OK;
}

static Status read_rates(const Reader *reader, const char *key, const json_t *value, double *out) {
    if (json_array_size(value) != PLAN_ROW_POINTS)
        FAIL(MACHINE, "%s: %.60s: a list of %d numbers is needed", reader->path, key,
             PLAN_ROW_POINTS);
    for (size_t i = 0; i < PLAN_ROW_POINTS; i++) {
        TRY(read_number(reader, key, json_array_get(value, i), &out[i]));
        if (out[i] == 0) FAIL(MACHINE, "%s: %.60s: a rate is 0", reader->path, key);
    }
    return STATUS_OK;
}

static Status read_text(const Reader *reader, const char *key, const json_t *value, char *out,
                        size_t out_bytes) {
    if (!json_is_string(value) || json_string_length(value) >= out_bytes)
        FAIL(MACHINE, "%s: %.60s: a text of at most %zu bytes is needed", reader->path, key,
             out_bytes - 1);
    memcpy(out, json_string_value(value), json_string_length(value) + 1);
    return STATUS_OK;
}

static Status read_field(const Reader *reader, const Field *field, const json_t *value) {
    char *target = (char *)reader->out + field->offset;
    switch (field->kind) {
    case FIELD_COUNT: return read_count(reader, field->key, value, (uint32_t *)target);
    case FIELD_RATES: return read_rates(reader, field->key, value, (double *)target);
    case FIELD_REAL: return read_number(reader, field->key, value, (double *)target);
    case FIELD_FLAG:
        if (!json_is_boolean(value))
            FAIL(MACHINE, "%s: %s: true or false is needed", reader->path, field->key);
        *(bool *)target = json_is_true(value);
    }
    return STATUS_OK;
}

static Status read_attention(const Reader *reader, const char *name, json_t *rates) {
    const char *key;
    json_t *value;
    uint32_t index = 0;
    const Codec *codec;
    while ((codec = codec_at(index)) && strcmp(codec->name, name) != 0)
        index++;
    if (!codec || index >= PLAN_CODECS_MAX)
        FAIL(MACHINE, "%s: attention: there is no codec \"%.60s\"", reader->path, name);
    PlanAttention *out = &reader->out->attention[index];
    if (!json_is_object(rates))
        FAIL(MACHINE, "%s: attention: %s: an object is needed", reader->path, name);
    json_object_foreach(rates, key, value) {
        bool bytes = strcmp(key, "bytes_per_second") == 0;
        if (!bytes && strcmp(key, "operations_per_second") != 0)
            FAIL(MACHINE, "%s: attention: %s: unknown key \"%.60s\"", reader->path, name, key);
        TRY(read_number(reader, key, value, bytes ? &out->byte_rate : &out->operation_rate));
    }
    if (out->byte_rate == 0 || out->operation_rate == 0)
        FAIL(MACHINE, "%s: attention: %s: bytes_per_second and operations_per_second are needed",
             reader->path, name);
    return STATUS_OK;
}

static Status check_rows(const Reader *reader, const json_t *value) {
    bool right = json_array_size(value) == PLAN_ROW_POINTS;
    for (size_t i = 0; right && i < PLAN_ROW_POINTS; i++)
        right = json_integer_value(json_array_get(value, i)) == plan_row_points[i];
    if (!right) FAIL(MACHINE, "%s: matmul: rows must be [1, 8, 32, 128, 512]", reader->path);
    return STATUS_OK;
}

static Status read_section(const Reader *reader, const char *section, json_t *object) {
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        FAIL(MACHINE, "%s: %s: an object is needed", reader->path, section);
    json_object_foreach(object, key, value) {
        const Field *field = field_find(section, key);
        if (field)
            TRY(read_field(reader, field, value));
        else if (strcmp(section, "attention") == 0)
            TRY(read_attention(reader, key, value));
        else if (strcmp(section, "matmul") == 0 && strcmp(key, "rows") == 0)
            TRY(check_rows(reader, value));
        else
            FAIL(MACHINE, "%s: %s: unknown key \"%.60s\"", reader->path, section, key);
    }
    return STATUS_OK;
}

static Status read_top(const Reader *reader, json_t *root) {
    const char *key;
    json_t *value;
    PlanMachine *out = reader->out;
    json_object_foreach(root, key, value) {
        const Field *field = field_find(NULL, key);
        if (field)
            TRY(read_field(reader, field, value));
        else if (strcmp(key, "name") == 0)
            TRY(read_text(reader, key, value, out->name, sizeof out->name));
        else if (strcmp(key, "note") == 0)
            TRY(read_text(reader, key, value, out->note, sizeof out->note));
        else if (is_section(key))
            TRY(read_section(reader, key, value));
        else
            FAIL(MACHINE, "%s: unknown key \"%.60s\"", reader->path, key);
    }
    return STATUS_OK;
}

/* ---- what belongs together ---- */

static bool is_given(const PlanMachine *machine, const Field *field) {
    const char *at = (const char *)machine + field->offset;
    if (field->kind == FIELD_COUNT) return *(const uint32_t *)at > 0;
    return *(const double *)at > 0;
}

static Status need(const char *path, bool there, const char *what) {
    if (!there) FAIL(MACHINE, "%s: %s must be given, above 0", path, what);
    return STATUS_OK;
}

Status machine_file_check(const PlanMachine *machine, const char *path) {
    for (size_t i = 0; i < FIELD_TOTAL; i++) {
        const Field *field = &fields[i];
        if (field->need == OPTIONAL || is_given(machine, field)) continue;
        FAIL(MACHINE, "%s: %s%s%s must be given, above 0", path,
             field->section ? field->section : "", field->section ? ": " : "", field->key);
    }
    TRY(need(path, machine->attention[0].byte_rate > 0, "attention: f16"));
    TRY(need(path, machine->unified || machine->device_bytes > 0, "device: bytes"));
    TRY(need(path,
             machine->unified || (machine->to_device_rate > 0 && machine->from_device_rate > 0),
             "link: to_device_bytes_per_second and from_device_bytes_per_second"));
    TRY(need(path, machine->rank_count == 1 || machine->peer_rate > 0,
             "peers: bytes_per_second, with several ranks,"));
    TRY(need(path,
             machine->disk_bytes == 0 ||
                 (machine->disk_read_rate > 0 && machine->disk_write_rate > 0),
             "disk: read_bytes_per_second and write_bytes_per_second"));
    TRY(need(path, machine->core_count == 0 || machine->thread_count > 0, "threads"));
    if (machine->rank_count % machine->node_count != 0)
        FAIL(MACHINE, "%s: %u ranks do not share out over %u nodes", path, machine->rank_count,
             machine->node_count);
    return STATUS_OK;
}

Status machine_file_parse(const char *text, size_t text_bytes, const char *path, PlanMachine *out) {
    json_error_t error;
    PlanMachine machine = {.head_speed = 1};
    const Reader reader = {path, &machine};
    json_t *root = json_loadb(text, text_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        FAIL(MACHINE, "%s: line %d, column %d: not JSON as it should be", path, error.line,
             error.column);
    Status status = STATUS_OK;
    if (!json_is_object(root)) status = error_raise(ERROR_MACHINE, "%s: an object is needed", path);
    if (status == STATUS_OK) status = read_top(&reader, root);
    if (status == STATUS_OK) status = machine_file_check(&machine, path);
    json_decref(root);
    if (status == STATUS_OK) *out = machine;
    return status;
}

Status machine_file_read(const char *path, PlanMachine *out) {
    char *text;
    size_t bytes;
    TRY(whole_file_read(path, FILE_BYTES_MAX, &text, &bytes));
    Status status = machine_file_parse(text, bytes, path, out);
    free(text);
    return status;
}

/* ---- writing ---- */

static json_t *field_json(const PlanMachine *machine, const Field *field) {
    const char *at = (const char *)machine + field->offset;
    if (field->kind == FIELD_COUNT) return json_integer(*(const uint32_t *)at);
    if (field->kind == FIELD_FLAG) return json_boolean(*(const bool *)at);
    if (field->kind == FIELD_REAL) return json_real(*(const double *)at);
    json_t *list = json_array();
    for (int i = 0; i < PLAN_ROW_POINTS; i++)
        json_array_append_new(list, json_real(((const double *)at)[i]));
    return list;
}

static json_t *section_of(json_t *root, const char *name) {
    json_t *section = name ? json_object_get(root, name) : root;
    if (section) return section;
    json_object_set_new(root, name, json_object());
    return json_object_get(root, name);
}

static json_t *attention_json(const PlanMachine *machine) {
    json_t *all = json_object();
    const Codec *codec;
    for (uint32_t i = 0; i < PLAN_CODECS_MAX && (codec = codec_at(i)); i++)
        if (machine->attention[i].byte_rate > 0)
            json_object_set_new(all, codec->name,
                                json_pack("{sf sf}", "bytes_per_second",
                                          machine->attention[i].byte_rate, "operations_per_second",
                                          machine->attention[i].operation_rate));
    return all;
}

Status machine_file_text(const PlanMachine *machine, char **out_text) {
    json_t *root = json_pack("{ss ss}", "name", machine->name, "note", machine->note), *rows;
    for (size_t i = 0; root && i < FIELD_TOTAL; i++)
        json_object_set_new(section_of(root, fields[i].section), fields[i].key,
                            field_json(machine, &fields[i]));
    rows = json_array();
    for (int i = 0; i < PLAN_ROW_POINTS; i++)
        json_array_append_new(rows, json_integer(plan_row_points[i]));
    json_object_set_new(section_of(root, "matmul"), "rows", rows);
    json_object_set_new(root, "attention", attention_json(machine));
    *out_text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(REAL_DIGITS)) : NULL;
    json_decref(root);
    if (!*out_text) FAIL(MEMORY, "no memory for the machine's description");
    return STATUS_OK;
}

/* All folders of the path that are missing, as mkdir -p does. */
static void make_folders(const char *path) {
    char *folder = strdup(path);
    for (char *at = folder ? strchr(folder + 1, '/') : NULL; at; at = strchr(at + 1, '/')) {
        *at = 0;
        (void)mkdir(folder, 0700); /* whether it worked shows when the file is made */
        *at = '/';
    }
    free(folder);
}

Status machine_file_write(const PlanMachine *machine, const char *path) {
    char *text;
    TRY(machine_file_text(machine, &text));
    make_folders(path);
    Status status = durable_file_replace(path, text, strlen(text));
    free(text);
    return status;
}

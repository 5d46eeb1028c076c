#include "runtime/base/options_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "runtime/base/arena.h"

enum { CONFIG_BYTES_MAX = 1 << 20, CONFIG_LINE_MAX = 512 };

typedef struct ConfigReader {
    OptionSet *set;
    yaml_parser_t parser;
    yaml_event_t event;
    const char *path;
    OptionOrigin origin;
    char spelling[128];
    bool *seen; /* [row_count] keys met in this file */
} ConfigReader;

static Status fail_at(const ConfigReader *reader, const yaml_mark_t *mark, const char *text) {
    FAIL(CONFIG, "%s:%zu:%zu: %s", reader->path, mark->line + 1, mark->column + 1, text);
}

static Status next_event(ConfigReader *reader) {
    yaml_event_delete(&reader->event);
    if (yaml_parser_parse(&reader->parser, &reader->event)) return STATUS_OK;
    memset(&reader->event, 0, sizeof reader->event);
    char text[CONFIG_LINE_MAX];
    snprintf(text, sizeof text, "not YAML: %s",
             reader->parser.problem ? reader->parser.problem : "out of memory");
    return fail_at(reader, &reader->parser.problem_mark, text);
}

static Status expect(ConfigReader *reader, yaml_event_type_t type, const char *text) {
    TRY(next_event(reader));
    if (reader->event.type == type) return STATUS_OK;
    return fail_at(reader, &reader->event.start_mark, text);
}

static bool holds_nul(const yaml_event_t *event) {
    return memchr(event->data.scalar.value, 0, event->data.scalar.length) != NULL;
}

static Status assign_scalar(ConfigReader *reader, const OptionRow *row) {
    if (holds_nul(&reader->event))
        return fail_at(reader, &reader->event.start_mark, "a value may not hold a NUL byte");
    return options_assign(reader->set, row, (const char *)reader->event.data.scalar.value,
                          &reader->origin);
}

static Status read_value(ConfigReader *reader, const OptionRow *row) {
    TRY(next_event(reader));
    if (reader->event.type == YAML_SCALAR_EVENT) return assign_scalar(reader, row);
    if (reader->event.type != YAML_SEQUENCE_START_EVENT)
        return fail_at(
            reader, &reader->event.start_mark,
            "a value is a scalar or a list of scalars; anchors and nesting are not used");
    if (row->type != OPTION_LIST)
        return options_fail(&reader->origin, "takes one value, not a list");
    for (;;) {
        TRY(next_event(reader));
        if (reader->event.type == YAML_SEQUENCE_END_EVENT) return STATUS_OK;
        if (reader->event.type != YAML_SCALAR_EVENT)
            return fail_at(reader, &reader->event.start_mark, "a list holds scalars only");
        TRY(assign_scalar(reader, row));
    }
}

static Status read_pair(ConfigReader *reader) {
    if (reader->event.type != YAML_SCALAR_EVENT || holds_nul(&reader->event))
        return fail_at(reader, &reader->event.start_mark, "a key is the name of an option");
    snprintf(reader->spelling, sizeof reader->spelling, "%.100s",
             (const char *)reader->event.data.scalar.value);
    reader->origin.line = reader->event.start_mark.line + 1;
    reader->origin.column = reader->event.start_mark.column + 1;
    const OptionTable *table = reader->set->table;
    const OptionRow *row =
        option_find(table, reader->spelling, reader->event.data.scalar.length, true);
    if (!row || row->not_in_config) {
        char hint[128], text[CONFIG_LINE_MAX];
        options_hint(table, reader->spelling, "", hint, sizeof hint);
        snprintf(text, sizeof text, "unknown key \"%s\"%s", reader->spelling, hint);
        return fail_at(reader, &reader->event.start_mark, text);
    }
    bool *seen = &reader->seen[row - table->rows];
    if (*seen) return options_fail(&reader->origin, "stands twice");
    *seen = true;
    return read_value(reader, row);
}

static Status read_document(ConfigReader *reader) {
    TRY(expect(reader, YAML_STREAM_START_EVENT, "not a YAML stream"));
    TRY(next_event(reader));
    if (reader->event.type == YAML_STREAM_END_EVENT) return STATUS_OK; /* nothing but comments */
    TRY(expect(reader, YAML_MAPPING_START_EVENT, "expected lines of \"option: value\""));
    for (;;) {
        TRY(next_event(reader));
        if (reader->event.type == YAML_MAPPING_END_EVENT) break;
        TRY(read_pair(reader));
    }
    TRY(expect(reader, YAML_DOCUMENT_END_EVENT, "unexpected text behind the settings"));
    return expect(reader, YAML_STREAM_END_EVENT, "a second document is not used");
}

Status options_read_config_text(OptionSet *set, const char *text, size_t text_bytes,
                                const char *path) {
    ConfigReader reader = {.set = set, .path = path};
    reader.origin =
        (OptionOrigin){.source = OPTION_SOURCE_CONFIG, .spelling = reader.spelling, .path = path};
    TRY(memory_take((void **)&reader.seen, set->table->row_count, sizeof *reader.seen,
                    "a configuration file"));
    if (!yaml_parser_initialize(&reader.parser)) {
        free(reader.seen);
        FAIL(MEMORY, "no memory to read \"%s\"", path);
    }
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, text_bytes);
    Status status = read_document(&reader);
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    free(reader.seen);
    return status;
}

Status options_read_config_file(OptionSet *set, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        FAIL(FILE_MISSING, "configuration file \"%s\": %s; see --config", path, strerror(errno));
    char *text;
    Status status = memory_take((void **)&text, 1, CONFIG_BYTES_MAX + 1, "a configuration file");
    if (status != STATUS_OK) {
        fclose(file);
        return status;
    }
    size_t bytes = fread(text, 1, CONFIG_BYTES_MAX + 1, file);
    if (ferror(file))
        status =
            error_raise(ERROR_FILE_MISSING, "configuration file \"%s\": %s", path, strerror(errno));
    else if (bytes > CONFIG_BYTES_MAX)
        status = error_raise(ERROR_CONFIG, "%s: larger than 1 MiB", path);
    else
        status = options_read_config_text(set, text, bytes, path);
    free(text);
    fclose(file);
    return status;
}

void options_print_config(const OptionSet *set, FILE *out) {
    for (size_t i = 0; i < set->table->row_count; i++) {
        const OptionRow *row = &set->table->rows[i];
        const OptionState *state = &set->states[i];
        const void *value = set->target + row->offset;
        if (!state->applies || row->not_in_config) continue;
        bool is_text = row->type == OPTION_STRING || row->type == OPTION_CHOICE;
        bool unset = is_text && !*(const char *const *)value;
        fprintf(out, "%s%s: ", unset ? "# " : "", row->name);
        option_types[row->type].print(row, value, out);
        fprintf(out, "  # %s", unset ? "not set" : option_source_name(state->source));
        if (state->path && !unset) {
            fputc(' ', out);
            yaml_print_escaped(state->path, out);
            fprintf(out, ":%zu", state->line);
        }
        fputc('\n', out);
    }
}

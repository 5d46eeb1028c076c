#include "runtime/text/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/json_place.h"

static bool marks_fit(const ChatTemplate *row, const char *text) {
    if (!row->marks) return false;
    for (const char *const *mark = row->marks; *mark; mark++) {
        bool unwanted = (*mark)[0] == '!';
        bool found = strstr(text, *mark + unwanted);
        if (found == unwanted) return false;
    }
    return true;
}

static bool is_same_token(const char *written, const char *own) {
    return !written || !own || !strcmp(written, own);
}

const ChatTemplate *chat_template_recognise(const char *text, const char *bos, const char *eos) {
    for (const ChatTemplate *const *row = chat_templates; *row; row++)
        if (marks_fit(*row, text) && is_same_token((*row)->bos, bos) &&
            is_same_token((*row)->eos, eos))
            return *row;
    return NULL;
}

/* What a model's files say; texts are owned, NULL where they say nothing. */
typedef struct ModelTemplate {
    char *text, *bos, *eos;
} ModelTemplate;

static void model_template_free(ModelTemplate *model) {
    free(model->text);
    free(model->bos);
    free(model->eos);
}

static Status keep(const char *text, size_t bytes, char **out) {
    if (*out) return STATUS_OK;
    *out = strndup(text, bytes);
    if (!*out) FAIL(MEMORY, "no memory for a chat template");
    return STATUS_OK;
}

/* ---- GGUF ---- */

static Status keep_gguf_token(const Weights *weights, const char *key, char **out) {
    uint32_t token = 0;
    size_t bytes;
    Status status = weights_read_u32(weights, key, &token);
    if (status == STATUS_NOT_FOUND) return STATUS_OK;
    TRY(status);
    const Metadata *tokens = weights_metadata_find(weights, "tokenizer.ggml.tokens");
    if (!tokens || tokens->element_type != METADATA_STRING || token >= tokens->element_count)
        return STATUS_OK;
    const char *text = weights_array_string(tokens, token, &bytes);
    return keep(text, bytes, out);
}

static Status read_gguf(const Weights *weights, ModelTemplate *out) {
    const char *text = NULL;
    Status status = weights_read_string(weights, "tokenizer.chat_template", &text);
    if (status == STATUS_NOT_FOUND) return STATUS_OK;
    TRY(status);
    TRY(keep(text, strlen(text), &out->text));
    TRY(keep_gguf_token(weights, "tokenizer.ggml.bos_token_id", &out->bos));
    return keep_gguf_token(weights, "tokenizer.ggml.eos_token_id", &out->eos);
}

/* ---- Hugging Face folder ---- */

/* One text, or a list of {"name", "template"} of which "default" counts. */
static Status keep_config_template(const JsonPlace *config, char **out) {
    JsonPlace place = json_place_member(config, "chat_template");
    const char *text = NULL, *name = NULL;
    for (size_t i = 0; i < json_array_size(place.value); i++) {
        JsonPlace named = json_place_element(&place, i);
        JsonPlace name_place = json_place_member(&named, "name");
        JsonPlace text_place = json_place_member(&named, "template");
        TRY(json_place_text(&name_place, &name));
        TRY(json_place_text(&text_place, &text));
        if (!strcmp(name, "default")) return keep(text, strlen(text), out);
    }
    if (!place.value || json_is_array(place.value)) return STATUS_OK;
    TRY(json_place_text(&place, &text));
    return keep(text, strlen(text), out);
}

static Status keep_config_token(const JsonPlace *config, const char *key, char **out) {
    JsonPlace place = json_place_member(config, key);
    const char *text = NULL;
    TRY(json_place_token_text(&place, &text));
    return text ? keep(text, strlen(text), out) : STATUS_OK;
}

static Status read_config(const char *text, size_t bytes, ModelTemplate *out) {
    json_t *value;
    TRY(json_place_parse("tokenizer_config.json", text, bytes, &value));
    JsonPlace config = json_place_root("tokenizer_config.json", value);
    Status status = keep_config_template(&config, &out->text);
    if (status == STATUS_OK) status = keep_config_token(&config, "bos_token", &out->bos);
    if (status == STATUS_OK) status = keep_config_token(&config, "eos_token", &out->eos);
    json_decref(value);
    return status;
}

static Status read_folder(const Weights *weights, ModelTemplate *out) {
    char *text;
    size_t bytes;
    Status status = weights_read_side_file(weights, "chat_template.jinja", &text, &bytes);
    if (status == STATUS_OK)
        out->text = text;
    else if (status != STATUS_NOT_FOUND)
        return status;
    status = weights_read_side_file(weights, "tokenizer_config.json", &text, &bytes);
    if (status == STATUS_NOT_FOUND) return STATUS_OK;
    TRY(status);
    status = read_config(text, bytes, out);
    free(text);
    return status;
}

/* ---- the choice ---- */

/* The names of all rows, for errors. */
static void list_names(char *out, size_t size) {
    size_t used = 0;
    for (const ChatTemplate *const *row = chat_templates; *row && used < size; row++) {
        int added = snprintf(out + used, size - used, "%s%s", used ? ", " : "", (*row)->name);
        used += added > 0 ? (size_t)added : 0;
    }
}

static Status choose_by_name(const char *name, const ChatTemplate **out) {
    for (const ChatTemplate *const *row = chat_templates; *row; row++) {
        if (strcmp((*row)->name, name)) continue;
        *out = *row;
        return STATUS_OK;
    }
    char names[256];
    list_names(names, sizeof names);
    FAIL(CHAT_TEMPLATE,
         "there is no chat template \"%s\"; --chat-template takes auto or one of: %s", name, names);
}

static Status choose_for_model(const Weights *weights, const ModelTemplate *model,
                               const ChatTemplate **out) {
    *out = NULL;
    if (!model->text) return STATUS_OK;
    *out = chat_template_recognise(model->text, model->bos, model->eos);
    if (*out) return STATUS_OK;
    char names[256];
    list_names(names, sizeof names);
    FAIL(CHAT_TEMPLATE,
         "%s: the model's chat template is not one that is known; choose one with --chat-template: "
         "%s",
         weights_path(weights), names);
}

Status chat_template_choose(const Weights *weights, const char *choice, const ChatTemplate **out) {
    if (choice && strcmp(choice, "auto")) return choose_by_name(choice, out);
    ModelTemplate model = {0};
    bool is_folder = weights_naming(weights) == WEIGHTS_NAMING_HF;
    Status status = is_folder ? read_folder(weights, &model) : read_gguf(weights, &model);
    if (status == STATUS_OK) status = choose_for_model(weights, &model, out);
    model_template_free(&model);
    return status;
}

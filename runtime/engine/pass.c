#include "runtime/engine/pass.h"

#include "runtime/base/bytes.h"

enum { BUFFER_ALIGNMENT_FLOATS = 16 };

static uint32_t wide(const Model *model) {
    uint32_t hidden = model->config.hidden_size, embedding = model->config.embedding_size;
    return hidden > embedding ? hidden : embedding;
}

/* With memory NULL only counts. */
static uint64_t lay_out(Pass *pass, const Model *model, float *memory, uint32_t rows,
                        uint32_t head_rows) {
    uint64_t heads = share_count(model->share.heads), kv_heads = share_count(model->share.kv_heads);
    uint64_t head_dim = model->config.head_dim, mlp = share_count(model->share.mlp_columns);
    const struct {
        float **buffer;
        uint64_t count;
    } rows_of[] = {
        {&pass->x, (uint64_t)rows * model->config.hidden_size},
        {&pass->normed, (uint64_t)rows * wide(model)},
        {&pass->sum, (uint64_t)rows * wide(model)},
        {&pass->q, rows * heads * head_dim},
        {&pass->k, rows * kv_heads * head_dim},
        {&pass->v, rows * kv_heads * head_dim},
        {&pass->attention, rows * heads * head_dim},
        {&pass->maxima, rows * heads},
        {&pass->sums, rows * heads},
        {&pass->gate, rows * mlp},
        {&pass->up, rows * mlp},
        {&pass->logits, (uint64_t)head_rows * share_count(model->share.vocab_rows)},
    };
    uint64_t used = 0;
    for (size_t i = 0; i < sizeof rows_of / sizeof rows_of[0]; i++) {
        if (memory) *rows_of[i].buffer = memory + used;
        used += align_up(rows_of[i].count, BUFFER_ALIGNMENT_FLOATS);
    }
    return used;
}

uint64_t pass_float_count(const Model *model, uint32_t rows, uint32_t head_rows) {
    Pass pass;
    return lay_out(&pass, model, NULL, rows, head_rows);
}

void pass_bind(Pass *pass, float *memory, uint32_t rows, uint32_t head_rows) {
    (void)lay_out(pass, pass->model, memory, rows, head_rows);
}

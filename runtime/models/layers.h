#ifndef RUNTIME_MODELS_LAYERS_H
#define RUNTIME_MODELS_LAYERS_H

/* The few pieces that families share. Each works on all rows of pass->batch unless it says otherwise. */

#include "runtime/engine/pass.h"

SPILLWAY_EXTERN_C_BEGIN

/* Decodes the embedding rows of the batch's tokens into out [rows][embedding_size], summed over the ranks that hold them. */
Status layers_embed(Pass *pass, float *out);

/* out = x W^T + bias for matrices that share x; times it as matmul. */
void layers_matmul(Pass *pass, const MatmulArgs *args);

/* One matrix. x: [row_count][x_stride], out: [row_count][rows of w] */
void layers_project(Pass *pass, const Matrix *w, const float *bias, const float *x,
                    uint32_t row_count, float *out);

/* Row-parallel projection: pass->sum [rows][rows of w] = sum over ranks of x W^T + bias. x: [rows][columns of w] */
Status layers_project_sum(Pass *pass, const Matrix *w, const float *bias, const float *x);

/* x += pass->sum */
void layers_add_residual(Pass *pass);

typedef struct NormWeights {
    const float *weight, *bias;
} NormWeights;

typedef void (*NormKernel)(const KernelContext *context, const NormArgs *args);

/* out = norm(in); [row_count][hidden] each, out may be in. */
void layers_norm(Pass *pass, NormKernel norm, NormWeights weights, const float *in, float *out,
                 uint32_t row_count);

/* Norm of every head by itself; x: [rows][head_count * head_dim] in place (Qwen3). */
void layers_norm_heads(Pass *pass, const float *weight, float *x, uint32_t head_count);

/* Rotates pass->q and pass->k by the rows' positions. */
void layers_rope(Pass *pass);

/* Stores pass->k and pass->v, attends with pass->q, leaves pass->attention. The seal point of the layer is its end. */
Status layers_attend(Pass *pass, uint32_t layer_index);

/* Copies the rows that the head works on from x [rows][hidden] to out [head_count][hidden]. */
Status layers_gather_head_rows(Pass *pass, const float *x, float *out);

/* pass->logits = in W_head^T; in: [head_count][columns of the head] */
void layers_head(Pass *pass, const float *in);

SPILLWAY_EXTERN_C_END

#endif

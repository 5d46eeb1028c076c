/* What the slots of the GPU's backend refuse, on the emulated device: shapes and codecs without a kernel, and a device that broke. What
 * they compute is for check. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cuda/coded_form.h"

typedef struct Opened {
    Device *device;
    Kernels kernels;
    KernelContext context;
} Opened;

static const KernelLimits small = {
    .row_count = 8, .column_count = 64, .head_count = 4, .head_dim = 64, .block_tokens = 32};

static Status open_context(Opened *opened, const KernelLimits *limits) {
    const BackendOptions options = {.cpu_isa = "auto", .seed = 1};
    *opened = (Opened){0};
    assert_int_equal(backend_open("emulated", &options, &opened->device, &opened->kernels),
                     STATUS_OK);
    return opened->kernels.context_open(&opened->kernels, opened->device, limits, &opened->context);
}

static void close_opened(Opened *opened) {
    opened->kernels.context_close(opened->device, &opened->context);
    opened->device->close(opened->device);
}

static void test_wide_heads_are_refused(void **state) {
    (void)state;
    Opened opened;
    KernelLimits limits = small;
    limits.head_dim = 257;
    assert_int_equal(open_context(&opened, &limits), STATUS_UNSUPPORTED);
    const char *text;
    assert_int_equal(error_last(&text), ERROR_MODEL_UNSUPPORTED);
    close_opened(&opened);
    limits.head_dim = 256;
    assert_int_equal(open_context(&opened, &limits), STATUS_OK);
    close_opened(&opened);
    limits.head_count = 513;
    assert_int_equal(open_context(&opened, &limits), STATUS_UNSUPPORTED);
    close_opened(&opened);
}

static uint64_t no_bytes(const CodecHead *head) {
    (void)head;
    return 64;
}

static void no_numbers(const CodecHead *head, const uint8_t *bytes, uint32_t token, float *out) {
    (void)bytes, (void)token;
    memset(out, 0, head->head_dim * sizeof *out);
}

/* Every codec of the table has a form; one that is not there has none, and is refused before anything is launched. */
static void test_codecs_without_a_kernel(void **state) {
    (void)state;
    Opened opened;
    CodedForm form;
    const KvShape shape = {2, 64, 32};
    const Codec *codec;
    for (uint32_t i = 0; (codec = codec_at(i)); i++)
        assert_true(coded_form(codec, &shape, &form));
    assert_true(coded_form(NULL, &shape, &form));
    assert_int_equal(form.kind, CODED_RAW);
    const Codec other = {
        .name = "other", .code_bits = 5, .head_bytes = no_bytes, .expand = no_numbers};
    assert_false(coded_form(&other, &shape, &form));
    assert_int_equal(open_context(&opened, &small), STATUS_OK);
    const KvEncodeArgs args = {.codec = &other, .shape = shape};
    assert_int_equal(opened.kernels.kv_encode_blocks(&opened.kernels, &opened.context, &args),
                     STATUS_UNSUPPORTED);
    close_opened(&opened);
}

/* A kernel that meets what is not device memory breaks the device; slots after that launch nothing, and the next call that can
 * says so. */
static void test_broken_device(void **state) {
    (void)state;
    Opened opened;
    assert_int_equal(open_context(&opened, &small), STATUS_OK);
    _Alignas(16) float x[64] = {0};
    uint32_t positions[1] = {0};
    ElementwiseArgs add = {.a = x, .b = x, .out = x, .row_count = 1, .element_count = 64};
    opened.kernels.add(&opened.context, &add);
    assert_int_equal(opened.device->stream_wait(opened.device, opened.context.stream),
                     STATUS_DEVICE);
    RopeArgs rope = {.matrices = {{.x = x, .head_count = 1}},
                     .row_count = 1,
                     .head_dim = 64,
                     .rotary_dim = 64,
                     .positions = positions,
                     .cosines = x,
                     .sines = x};
    opened.kernels.rope(&opened.context, &rope);
    assert_int_equal(opened.device->stream_wait(opened.device, opened.context.stream),
                     STATUS_DEVICE);
    close_opened(&opened);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wide_heads_are_refused),
        cmocka_unit_test(test_codecs_without_a_kernel),
        cmocka_unit_test(test_broken_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

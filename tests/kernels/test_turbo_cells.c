/* What the vector encoders of TurboQuant rest on: no two thresholds of a code book lie in one cell of a search by cells. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "kernels/codec/turboquant.h"

static void check_vector(const TurboVector *vector) {
    const float half_the_cells = vector->bits == 4 ? 16.0f : 8.0f, margin = 1.001f;
    uint32_t count = (1u << vector->bits) - 1;
    float limit = vector->thresholds[count - 1];
    assert_true(vector->thresholds[0] == -limit); /* cells count from the middle */
    for (uint32_t i = 1; i < count; i++) {
        float cells = (vector->thresholds[i] - vector->thresholds[i - 1]) / limit;
        assert_true(cells * (half_the_cells - 0.6f) > margin);
    }
}

static void test_cells(void **state) {
    static const char *const names[] = {"turboquant2", "turboquant3", "turboquant4",
                                        "turboquant2_5", "turboquant3_5"};
    int checked = 0;
    (void)state;
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
        for (uint32_t head_dim = 16; head_dim <= CODEC_HEAD_DIM_MAX; head_dim *= 2) {
            const KvShape shape = {1, head_dim, 16};
            const Codec *codec = codec_find(names[i]);
            if (codec_refusal(codec, &shape)) continue;
            const CodecHead head = codec_head(codec, &shape, CODEC_KEYS);
            const TurboPlan *plan = turbo_plan(&head);
            for (uint32_t v = 0; v < plan->vector_count; v++, checked++)
                check_vector(&plan->vectors[v]);
        }
    assert_int_equal(checked, 3 * 5 + 2 * 3 * 2); /* sizes from 16 on, with outliers from 64 on */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cells)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

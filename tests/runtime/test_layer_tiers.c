/* A model file that becomes shorter while its layers are packed into frames ends the process by name, as one that is only read does. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/engine/engine.h"

static const char model_path[] = GOLDEN "/models/gguf_llama_f32/gguf_llama_f32.gguf";

/* A file of its own with the model's bytes; its descriptor. */
static int copy_model(char path[256]) {
    uint8_t bytes[4096];
    snprintf(path, 256, "%s/spillway_model_XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
    int from = open(model_path, O_RDONLY), to = mkstemp(path);
    ssize_t count;
    while (from >= 0 && to >= 0 && (count = read(from, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, (size_t)count) != count) return -1;
    close(from);
    return to;
}

static void open_truncated(int error_descriptor) {
    char path[256];
    Weights *weights;
    Comm *comm;
    Engine *engine;
    const char *directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    int descriptor = copy_model(path);
    dup2(error_descriptor, STDERR_FILENO);
    weights_guard_install();
    if (descriptor < 0 || weights_open(&weights, path) != STATUS_OK ||
        comm_self_create(&comm) != STATUS_OK)
        _exit(1);
    unlink(path);
    off_t last = (off_t)weights_tensor(weights, weights_tensor_count(weights) - 1)->file_offset;
    if (ftruncate(descriptor, last & ~(off_t)4095) != 0) _exit(1);
    const EngineOptions options = {.backend = "auto",
                                   .cpu_isa = "auto",
                                   .thread_count = 2,
                                   .max_num_seqs = 1,
                                   .max_num_batched_tokens = 8,
                                   .weight_bytes = {0, 0, UINT64_MAX},
                                   .weight_nvme_dirs = &directory,
                                   .weight_nvme_dir_count = 1};
    _exit(engine_open(&engine, &options, weights, NULL, comm) == STATUS_OK ? 2 : 3);
}

static void test_truncated_while_packed(void **state) {
    (void)state;
    int pipe_ends[2], wait_status;
    char line[1024] = "";
    assert_int_equal(pipe(pipe_ends), 0);
    pid_t child = fork();
    if (child == 0) open_truncated(pipe_ends[1]);
    close(pipe_ends[1]);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(read(pipe_ends[0], line, sizeof line - 1) > 0);
    close(pipe_ends[0]);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 74);
    assert_ptr_equal(strstr(line, "spillway: error[E-WEIGHTS-IO]: \""), line);
    assert_non_null(strstr(line, "it was truncated"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_truncated_while_packed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

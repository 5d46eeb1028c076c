/* The option reader against a small table of its own: every type, every source, and what each wrong value says. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/base/options.h"

typedef struct Target {
    bool help, fast, no_cache;
    int64_t count, blocks;
    double ratio, wait_s;
    OptionSize room;
    const char *path, *mode;
    OptionList stops;
    int64_t other;
} Target;

#define AT(field) .offset = offsetof(Target, field)

static const OptionGroup groups[] = {{"main", "Main"}, {"side", "Side"}};
static const OptionRow rows[] = {
    {.name = "help",
     .type = OPTION_FLAG,
     .help = "h",
     .group = "main",
     .not_in_config = true,
     AT(help)},
    {.name = "fast", .type = OPTION_FLAG, .help = "h", .group = "main", AT(fast)},
    {.name = "no-cache", .type = OPTION_FLAG, .help = "h", .group = "main", AT(no_cache)},
    {.name = "max-count",
     .shorts = "c mc",
     .aliases = "limit",
     .type = OPTION_INTEGER,
     .value_name = "N",
     .default_text = "7",
     .min = 1,
     .max = 100,
     .help = "h",
     .group = "main",
     AT(count)},
    {.name = "blocks",
     .type = OPTION_INTEGER,
     .value_name = "N",
     .default_text = "auto",
     .zero_word = "auto",
     .min = 0,
     .max = 8,
     .help = "h",
     .group = "main",
     AT(blocks)},
    {.name = "ratio",
     .type = OPTION_REAL,
     .value_name = "X",
     .default_text = "0.5",
     .min = -2,
     .max = 2,
     .help = "h",
     .group = "main",
     AT(ratio)},
    {.name = "wait",
     .type = OPTION_DURATION,
     .value_name = "TIME",
     .default_text = "1m",
     .min = 0,
     .max = 3600,
     .help = "h",
     .group = "main",
     AT(wait_s)},
    {.name = "room",
     .type = OPTION_SIZE,
     .value_name = "SIZE",
     .default_text = "auto",
     .zero_word = "auto",
     .help = "h",
     .group = "main",
     AT(room)},
    {.name = "path",
     .shorts = "p",
     .type = OPTION_STRING,
     .value_name = "FILE",
     .help = "h",
     .group = "main",
     AT(path)},
    {.name = "mode",
     .type = OPTION_CHOICE,
     .value_name = "NAME",
     .choices = "slow|steady",
     .default_text = "slow",
     .help = "h",
     .group = "main",
     AT(mode)},
    {.name = "stop",
     .type = OPTION_LIST,
     .value_name = "TEXT",
     .help = "h",
     .group = "main",
     AT(stops)},
    {.name = "other",
     .type = OPTION_INTEGER,
     .value_name = "N",
     .default_text = "1",
     .help = "h",
     .group = "side",
     AT(other)},
};
static const OptionTable table = {rows, sizeof rows / sizeof *rows, groups, 2};

static Target target;
static OptionSet *set;

static int begin(void **state) {
    (void)state;
    return options_create(&set, &table, "try", "@main", &target) == STATUS_OK ? 0 : 1;
}

static int end(void **state) {
    (void)state;
    options_destroy(set);
    return 0;
}

static Status read_words(const char *words) {
    static char copy[512];
    const char *arguments[32];
    int count = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        arguments[count++] = word;
    return options_read_arguments(set, count, arguments, "path");
}

static Status read_config(const char *text) {
    return options_read_config_text(set, text, strlen(text), "some.yaml");
}

static Status read_environment(const char *variable) {
    return options_read_environment(set, (const char *const[]){"HOME=/", variable, NULL});
}

static void expect_failure(Status status, const char *code, const char *part) {
    const char *text;
    assert_int_equal(status, STATUS_BAD_INPUT);
    assert_string_equal(error_row(error_last(&text))->code, code);
    if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static void test_defaults(void **state) {
    (void)state;
    assert_int_equal(target.count, 7);
    assert_int_equal(target.blocks, 0);
    assert_true(target.ratio == 0.5 && target.wait_s == 60);
    assert_true(target.room.bytes == 0 && target.room.per_cent == 0);
    assert_null(target.path);
    assert_string_equal(target.mode, "slow");
    assert_int_equal(target.stops.count, 0);
    assert_int_equal(options_source(set, "max-count"), OPTION_SOURCE_DEFAULT);
}

static void test_spellings(void **state) {
    (void)state;
    static const char *const lines[] = {
        "--max-count 9", "--max-count=9", "--max_count 9", "-c 9",      "-c9",
        "-c=9",          "-mc 9",         "--limit 9",     "--limit=9",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        target.count = 0;
        assert_int_equal(read_words(lines[i]), STATUS_OK);
        assert_int_equal(target.count, 9);
    }
    assert_int_equal(read_words("--fast --no-cache a.txt --mode steady --stop x --stop=y"),
                     STATUS_OK);
    assert_true(target.fast && target.no_cache);
    assert_string_equal(target.path, "a.txt");
    assert_string_equal(target.mode, "steady");
    assert_int_equal(target.stops.count, 2);
    assert_string_equal(target.stops.items[1], "y");
    assert_int_equal(read_words("--no-fast --cache -- --fast"), STATUS_OK);
    assert_true(!target.fast && !target.no_cache);
    assert_string_equal(target.path, "--fast");
    assert_int_equal(read_words("--ratio -1 -p -"), STATUS_OK);
    assert_true(target.ratio == -1);
    assert_string_equal(target.path, "-");
}

static void test_sizes_and_times(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
        double per_cent;
    } sizes[] = {
        {"0", 0, 0},
        {"auto", 0, 0},
        {"1B", 1, 0},
        {"3kB", 3000, 0},
        {"64GiB", 64ull << 30, 0},
        {"1.5 MiB", 3ull << 19, 0},
        {"9223372036854775807B", INT64_MAX, 0},
        {"12.5%", 0, 12.5},
        {"2TB", 2000000000000, 0},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *arguments[] = {"--room", sizes[i].text};
        assert_int_equal(options_read_arguments(set, 2, arguments, ""), STATUS_OK);
        assert_int_equal(target.room.bytes, sizes[i].bytes);
        assert_true(target.room.per_cent == sizes[i].per_cent);
    }
    static const struct {
        const char *text;
        double seconds;
    } times[] = {{"0", 0}, {"5", 5}, {"250ms", 0.25}, {"2m", 120}, {"1h", 3600}, {"1.5s", 1.5}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        const char *arguments[] = {"--wait", times[i].text};
        assert_int_equal(options_read_arguments(set, 2, arguments, ""), STATUS_OK);
        assert_true(target.wait_s == times[i].seconds);
    }
}

static void test_wrong_arguments(void **state) {
    (void)state;
    static const struct {
        const char *line, *says;
    } wrong[] = {
        {"--max-cout 3", "did you mean --max-count?"},
        {"--nothing-like-it", "--help-all"},
        {"-z", "unknown option -z"},
        {"--max-count", "needs a whole number"},
        {"--max-count --fast", "--fast follows"},
        {"--max-count 0", "from 1 to 100"},
        {"--max-count 101", "from 1 to 100"},
        {"--max-count 3x", "whole number"},
        {"--max-count 0x10", "whole number"},
        {"--max-count 99999999999999999999", "too large"},
        {"--blocks no", "whole number or auto"},
        {"--fast=maybe", "true or false"},
        {"--no-fast=1", "takes no value"},
        {"--ratio nan", "not a number"},
        {"--ratio inf", "not a number"},
        {"--ratio 1e999", "too large"},
        {"--ratio 3", "from -2 to 2"},
        {"--room 64", "write 64GiB"},
        {"--room 64G", "no known unit"},
        {"--room -1GiB", "negative"},
        {"--room 101%", "100%"},
        {"--room 99999999999TiB", "too large"},
        {"--wait 3w", "no known unit"},
        {"--wait 2h", "from 0 to 3600"},
        {"--wait -1", "negative"},
        {"--mode fast", "slow|steady"},
        {"--mode slow|steady", "slow|steady"},
        {"--other 2", "not an option of \"try\""},
        {"a b", "unexpected argument \"b\""},
        {"--path \xff", "not UTF-8"},
        {"--path \xc0\x80", "not UTF-8"},
        {"--path \xed\xa0\x80", "not UTF-8"},
        {"--path \xf4\x90\x80\x80", "not UTF-8"},
        {"--path \xe2\x82", "not UTF-8"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_failure(read_words(wrong[i].line), "E-USAGE", wrong[i].says);
}

static void test_environment(void **state) {
    (void)state;
    assert_int_equal(read_environment("SPILLWAY_MAX_COUNT=11"), STATUS_OK);
    assert_int_equal(target.count, 11);
    assert_int_equal(options_source(set, "max-count"), OPTION_SOURCE_ENVIRONMENT);
    expect_failure(read_environment("SPILLWAY_MAX_COUNT=x"), "E-USAGE", "SPILLWAY_MAX_COUNT \"x\"");
    assert_int_equal(read_environment("SPILLWAY_TEST_MODEL=x"), STATUS_OK);
    assert_int_equal(read_environment("SPILLWAY_max_count=3"), STATUS_OK);
    assert_int_equal(read_environment("SPILLWAY_OTHER=3"), STATUS_OK);
    assert_int_equal(target.count, 11);
    assert_int_equal(target.other, 1);
}

static void test_config(void **state) {
    (void)state;
    assert_int_equal(read_config("# a comment\nmax_count: 12\nfast: yes\nroom: 2GiB\n"
                                 "stop: [\"a b\", c]\nother: 4\npath: \"x y\"\nlimit-x: 1"),
                     STATUS_BAD_INPUT);
    assert_int_equal(target.count, 12);
    assert_true(target.fast);
    assert_int_equal(target.room.bytes, 2ull << 30);
    assert_int_equal(target.stops.count, 2);
    assert_string_equal(target.stops.items[0], "a b");
    assert_string_equal(target.path, "x y");
    assert_int_equal(target.other, 1);
    assert_int_equal(read_config(""), STATUS_OK);
    assert_int_equal(read_config("# only words\n"), STATUS_OK);
}

static void test_wrong_configs(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"max_cuont: 3", "some.yaml:1:1: unknown key \"max_cuont\"; did you mean max-count?"},
        {"fast: true\nmax-count: 300", "some.yaml:2:1: max-count \"300\": must be from 1 to 100"},
        {"help: true", "unknown key \"help\""},
        {"max-count: 1\nmax_count: 2", "some.yaml:2:1: max_count stands twice"},
        {"max-count: [1]", "not a list"},
        {"max-count: {a: 1}", "scalar"},
        {"max-count: *x", "some.yaml:1:"},
        {"stop: [[a]]", "scalars only"},
        {"- a", "option: value"},
        {"just words", "option: value"},
        {"path: b: c", "not YAML"},
        {"fast: true\n---\nfast: false", "second document"},
        {"\"max-count\\0x\": 3", "a key is"},
        {"path: \"a\\0b\"", "NUL"},
        {"room: 64", "write 64GiB"},
        {"path: \"open", "not YAML"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_failure(read_config(wrong[i].text), "E-CONFIG", wrong[i].says);
}

/* The order of the calls is the reverse of their strength, and the reverse of that. */
static void test_precedence(void **state) {
    (void)state;
    static const char config[] = "max-count: 2\nratio: 0.25\nblocks: 3\nstop: [c, d]";
    for (int order = 0; order < 2; order++) {
        end(NULL);
        begin(NULL);
        if (order == 0) assert_int_equal(read_config(config), STATUS_OK);
        if (order == 1) assert_int_equal(read_words("--max-count 4 --stop f"), STATUS_OK);
        assert_int_equal(read_environment("SPILLWAY_MAX_COUNT=3"), STATUS_OK);
        assert_int_equal(read_environment("SPILLWAY_RATIO=0.75"), STATUS_OK);
        if (order == 0) assert_int_equal(read_words("--max-count 4 --stop f"), STATUS_OK);
        if (order == 1) assert_int_equal(read_config(config), STATUS_OK);
        assert_int_equal(target.count, 4);
        assert_true(target.ratio == 0.75);
        assert_int_equal(target.blocks, 3);
        assert_int_equal(target.stops.count, 1);
        assert_string_equal(target.stops.items[0], "f");
        assert_int_equal(options_source(set, "max-count"), OPTION_SOURCE_FLAG);
        assert_int_equal(options_source(set, "ratio"), OPTION_SOURCE_ENVIRONMENT);
        assert_int_equal(options_source(set, "blocks"), OPTION_SOURCE_CONFIG);
    }
}

static char *printed_config(void) {
    char *text;
    size_t bytes;
    FILE *memory = open_memstream(&text, &bytes);
    options_print_config(set, memory);
    fclose(memory);
    return text;
}

/* Values only: the comments name other sources after reading back. */
static void drop_comments(char *text) {
    char *to = text;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *comment = strstr(line, "  # ");
        if (comment) *comment = 0;
        memmove(to, line, strlen(line) + 1);
        to += strlen(to);
        *to++ = '\n';
    }
    *to = 0;
}

static void test_printed_config_reads_back(void **state) {
    (void)state;
    const char *arguments[] = {
        "--room",     "1536MiB",  "--ratio",
        "0.1",        "--wait",   "333ms",
        "--stop",     "a\"\\\n#", "--stop",
        ": [x",       "--path",   "# \t'",
        "--blocks",   "4",        "--fast",
        "--no-cache", "--stop",   "\xc2\x85\u2028\ufeff\xc2\x9f\U0001f600\u00e9\x7f\x01"};
    assert_int_equal(options_read_arguments(set, 18, arguments, ""), STATUS_OK);
    assert_int_equal(read_config("max-count: 5"), STATUS_OK);
    char *first = printed_config();
    assert_non_null(strstr(first, "max-count: 5  # config some.yaml:1\n"));
    assert_non_null(strstr(first, "room: 1536MiB  # flag\n"));
    assert_non_null(strstr(first, "mode: \"slow\"  # default\n"));
    assert_null(strstr(first, "help"));
    end(NULL);
    begin(NULL);
    assert_int_equal(read_config(first), STATUS_OK);
    assert_true(target.ratio == 0.1 && target.wait_s == 0.333);
    assert_string_equal(target.stops.items[0], "a\"\\\n#");
    assert_string_equal(target.stops.items[2], arguments[17]);
    char *second = printed_config();
    drop_comments(first);
    drop_comments(second);
    assert_string_equal(first, second);
    free(first);
    free(second);
}

static void test_table_check(void **state) {
    (void)state;
    char why[256];
    assert_true(option_table_check(&table, why, sizeof why));
    static const OptionRow clash[] = {
        {.name = "a", .shorts = "x", .type = OPTION_FLAG, .help = "h", .group = "main"},
        {.name = "b", .shorts = "y x", .type = OPTION_FLAG, .help = "h", .group = "main"},
    };
    static const OptionRow lost[] = {
        {.name = "a", .type = OPTION_FLAG, .help = "h", .group = "none"}};
    static const OptionRow bad_default[] = {{.name = "a",
                                             .type = OPTION_INTEGER,
                                             .value_name = "N",
                                             .default_text = "x",
                                             .help = "h",
                                             .group = "main"}};
    const OptionTable tables[] = {
        {clash, 2, groups, 2}, {lost, 1, groups, 2}, {bad_default, 1, groups, 2}};
    static const char *const says[] = {"share the spelling x", "group", "default"};
    for (int i = 0; i < 3; i++) {
        assert_false(option_table_check(&tables[i], why, sizeof why));
        assert_non_null(strstr(why, says[i]));
    }
}

static void test_first_positional(void **state) {
    (void)state;
    const char *line[] = {"--max-count", "3", "-mc", "4", "--fast", "--path=x", "run", "--fast"};
    assert_int_equal(options_first_positional(&table, 8, line), 6);
    assert_int_equal(options_first_positional(&table, 6, line), 6);
}

static void test_nearest(void **state) {
    (void)state;
    const char *const names[] = {"batch", "bench", "doctor"};
    assert_string_equal(nearest_name("bacth", names, 3), "batch");
    assert_string_equal(nearest_name("doct", names, 3), "doctor");
    assert_null(nearest_name("serve", names, 3));
    assert_null(nearest_name("", names, 3));
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_defaults),
        TEST(test_spellings),
        TEST(test_sizes_and_times),
        TEST(test_wrong_arguments),
        TEST(test_environment),
        TEST(test_config),
        TEST(test_wrong_configs),
        TEST(test_precedence),
        TEST(test_printed_config_reads_back),
        TEST(test_table_check),
        TEST(test_first_positional),
        TEST(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

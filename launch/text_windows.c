#include "launch/text_windows.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"

Status window_rule_check(const WindowRule *rule) {
    if (rule->context < 2)
        FAIL(USAGE, "--context %u: a window holds at least a token of prompt and one to score",
             rule->context);
    if (rule->prefix >= rule->context)
        FAIL(USAGE, "--prefix %u leaves nothing to score of windows of %u tokens (--context)",
             rule->prefix, rule->context);
    if (rule->prefix <= rule->head_count && rule->head_count > 0)
        FAIL(USAGE,
             "--prefix %u: the token that begins a text is one of them, so give 2 or more, or "
             "--no-bos",
             rule->prefix);
    if (rule->stride > rule->context - rule->prefix)
        FAIL(USAGE,
             "--stride %u leaves less than --prefix %u of the %u tokens of a window as its prompt",
             rule->stride, rule->prefix, rule->context);
    return STATUS_OK;
}

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* The window after `before` (NULL: the first); false when the text gives no other. */
static bool next_window(const WindowRule *rule, uint64_t token_count, const TextWindow *before,
                        TextWindow *out) {
    uint32_t body = rule->context - rule->head_count;
    uint32_t unscored = rule->prefix - rule->head_count;
    uint64_t end = before ? before->first + before->count : 0, left = token_count - end;
    uint64_t scored_first = before ? before->scored_first + before->scored_count : 0;
    if (before && rule->stride > 0) {
        if (left == 0) return false;
        uint32_t moved = (uint32_t)smaller(rule->stride, left);
        *out = (TextWindow){end + moved - body, body, moved, scored_first};
        return true;
    }
    if (left <= unscored) return false;
    uint32_t count = (uint32_t)smaller(body, left);
    *out = (TextWindow){end, count, count - unscored, scored_first};
    return true;
}

Status text_windows_make(const WindowRule *rule, uint64_t token_count, TextWindows *out) {
    uint32_t step = rule->stride > 0 ? rule->stride : rule->context - rule->head_count;
    uint64_t most = divide_up(token_count, step) + 1;
    if (rule->window_max > 0) most = smaller(most, rule->window_max);
    TextWindow *items;
    TRY(memory_take((void **)&items, most, sizeof *items, "windows of a text"));
    TextWindows windows = {.items = items};
    const TextWindow *before = NULL;
    while (windows.count < most && next_window(rule, token_count, before, &items[windows.count]))
        before = &items[windows.count++];
    if (!before) {
        free(items);
        FAIL(TEXT,
             "the text gives %llu tokens; scoring one needs at least %u: give a longer text or a "
             "smaller --prefix",
             (unsigned long long)token_count, rule->prefix - rule->head_count + 1);
    }
    windows.scored_count = before->scored_first + before->scored_count;
    windows.left_out_count = token_count - before->first - before->count;
    *out = windows;
    return STATUS_OK;
}

void text_windows_free(TextWindows *windows) {
    free(windows->items);
    *windows = (TextWindows){0};
}

#include "launch/batch_shard.h"

#include <stdio.h>
#include <string.h>

enum { SHARDS_MAX = 1000000 };

Status batch_shard_read(BatchShard *out, const char *text) {
    unsigned number = 0, count = 0;
    int end = 0;
    bool written = sscanf(text, "%7u/%7u%n", &number, &count, &end) == 2 && text[end] == 0 &&
                   strspn(text, "0123456789/") == strlen(text);
    if (!written || number < 1 || number > count || count > SHARDS_MAX)
        FAIL(USAGE, "--shard %.40s: there are 1/N to N/N, with N up to %d", text, SHARDS_MAX);
    *out = (BatchShard){number, count};
    return STATUS_OK;
}

/* By the half of the key that IdSet does not place by: the names of one shard spread over all its slots. */
bool batch_shard_has(const BatchShard *shard, IdKey key) {
    return key.high % shard->count == shard->number - 1;
}

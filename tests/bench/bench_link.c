/* What the link between pinned host memory and devices carries, all of them at once: bench_link BACKEND DEVICES. Prints JSON. */

#include <stdio.h>
#include <stdlib.h>

#include "kernels/backend.h"
#include "runtime/base/monotonic.h"

enum { DEVICES_MAX = 16, ROUNDS = 7, COPIES = 16, AREA_BYTES = 64 << 20 };

typedef struct Link {
    Device *device;
    DeviceStream *stream;
    void *host, *there; /* [AREA_BYTES] */
} Link;

static Status open_link(const char *backend, uint32_t index, Link *out) {
    const BackendOptions options = {.cpu_isa = "auto", .device_index = index};
    Kernels kernels;
    TRY(backend_open(backend, &options, &out->device, &kernels));
    Device *device = out->device;
    TRY(device->stream_create(device, STREAM_COPY, &out->stream));
    TRY(device->memory_take(device, MEMORY_HOST, AREA_BYTES, "link", &out->host));
    return device->memory_take(device, MEMORY_DEVICE, AREA_BYTES, "link", &out->there);
}

static void close_link(Link *link) {
    Device *device = link->device;
    device->memory_give(device, MEMORY_DEVICE, link->there, AREA_BYTES);
    device->memory_give(device, MEMORY_HOST, link->host, AREA_BYTES);
    device->stream_destroy(device, link->stream);
    device->close(device);
}

/* Until the last of them is through. */
static Status copy_all(const Link *links, uint32_t count, bool up) {
    for (int copy = 0; copy < COPIES; copy++)
        for (const Link *link = links; link < links + count; link++)
            TRY(link->device->copy(link->device, link->stream, up ? link->there : link->host,
                                   up ? link->host : link->there, AREA_BYTES));
    for (const Link *link = links; link < links + count; link++)
        TRY(link->device->stream_wait(link->device, link->stream));
    return STATUS_OK;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of one device, by the median round. */
static Status measure(const Link *links, uint32_t count, bool up, double *out_rate) {
    double seconds[ROUNDS];
    TRY(copy_all(links, count, up)); /* commits pages, wakes links */
    for (int round = 0; round < ROUNDS; round++) {
        double begin = monotonic_seconds();
        TRY(copy_all(links, count, up));
        seconds[round] = monotonic_seconds() - begin;
    }
    qsort(seconds, ROUNDS, sizeof *seconds, compare_doubles);
    *out_rate = (double)COPIES * AREA_BYTES / seconds[ROUNDS / 2];
    return STATUS_OK;
}

int main(int argc, char **argv) {
    Link links[DEVICES_MAX];
    double up, down;
    uint32_t count = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    if (count < 1 || count > DEVICES_MAX) {
        fprintf(stderr, "usage: bench_link BACKEND DEVICES, %d at most\n", DEVICES_MAX);
        return 64;
    }
    for (uint32_t i = 0; i < count; i++)
        if (open_link(argv[1], i, &links[i]) != STATUS_OK) return 1;
    if (measure(links, count, true, &up) != STATUS_OK ||
        measure(links, count, false, &down) != STATUS_OK)
        return 1;
    printf("{\"device\": \"%s\", \"devices\": %u, \"to_device_bytes_per_second\": %.4g, "
           "\"from_device_bytes_per_second\": %.4g}\n",
           links[0].device->name, count, up, down);
    for (uint32_t i = 0; i < count; i++)
        close_link(&links[i]);
    return 0;
}

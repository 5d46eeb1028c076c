#include "runtime/base/machine.h"

#include <stdio.h>

uint64_t machine_available_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    fclose(file);
    return (uint64_t)kib << 10;
}

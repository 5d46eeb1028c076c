#include "tiers/placement.h"

#include <string.h>

#define PLACEMENT(name) extern const Placement placement_##name;
#include "tiers/placement/placement_rows.h"
#undef PLACEMENT

const Placement *const placements[] = {
#define PLACEMENT(name) &placement_##name,
#include "tiers/placement/placement_rows.h"
#undef PLACEMENT
    NULL,
};

const Placement *placement_find(const char *name) {
    for (size_t i = 0; placements[i]; i++)
        if (strcmp(placements[i]->name, name) == 0) return placements[i];
    return NULL;
}

#include "launch/named_config.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name, *text;
} configs[] = {
#define CONFIG(name, text) {name, text},
#include "configs/config_rows.h"
#undef CONFIG
};

enum { CONFIG_COUNT = sizeof configs / sizeof *configs };

static Status refuse(const char *name) {
    char names[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < CONFIG_COUNT && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, i ? ", %s" : "%s", configs[i].name);
    FAIL(FILE_MISSING, "--config \"%s\": no such file, and built in are only: %s", name, names);
}

Status named_config_read(OptionSet *set, const char *name) {
    char path[64];
    if (strchr(name, '/') || access(name, F_OK) == 0) return options_read_config_file(set, name);
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        if (strcmp(configs[i].name, name) != 0) continue;
        snprintf(path, sizeof path, "configs/%.40s.yaml", name);
        return options_read_config_text(set, configs[i].text, strlen(configs[i].text), path);
    }
    return refuse(name);
}

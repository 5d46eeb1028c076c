#include <stdio.h>

#include "build_commit.h"
#include "build_libraries.h"
#include "kernels/backend.h"
#include "kernels/cpu_features.h"
#include "launch/command.h"

static int version(const Settings *settings) {
    printf("spillway %s\n", BUILD_VERSION);
    if (!settings->verbose) return 0;
    printf("commit     %s\ncompiler   %s\nbuild      %s\nlibraries  %s\ncpu        %s\nbackends  ",
           BUILD_COMMIT, __VERSION__, BUILD_OPTIONS, BUILD_LIBRARIES, cpu_features_text());
    for (const Backend *const *row = backends; *row; row++)
        printf(" %s", (*row)->name);
    putchar('\n');
    return 0;
}

const Command command_version[] = {
    {.name = "version",
     .summary = "print the version; --verbose adds build, libraries and backends",
     .positionals = "",
     .needs = "",
     .takes = "verbose",
     .run = version},
    {.name = NULL},
};

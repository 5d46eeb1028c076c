#include "runtime/comm/comm.h"

bool comm_mpi_built(void) {
    return false;
}

Status comm_mpi_create(Comm **out, bool by_message) {
    (void)out, (void)by_message;
    FAIL(UNAVAILABLE, "this build has no MPI, so it runs as one rank only: install libopenmpi-dev "
                      "and build again with -Dmpi=enabled, or leave out --ranks");
}

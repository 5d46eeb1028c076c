#include "runtime/comm/comm.h"

Status comm_mpi_create(Comm **out, const CommMpiOptions *options) {
    (void)out, (void)options;
    FAIL(UNAVAILABLE, "this build has no MPI, so it runs as one rank only: install libopenmpi-dev "
                      "and build again with -Dmpi=enabled, or leave out --ranks");
}

/* The properties of runtime/comm under a real launcher: mpirun -n 3 comm_over_mpi [--by-message]. */

#include <stdio.h>
#include <string.h>

#include "runtime/comm/comm.h"
#include "tests/runtime/comm_property.h"

enum { ROUNDS = 150 };

/* A rank that expects less than it is sent fails with E-COMM, silently here; the others have nothing to see. Only
 * messages know their length. */
static int check_refused_message(Comm *comm) {
    float data[4] = {0};
    bool odd = comm->rank == comm->size - 1;
    error_capture_begin();
    Status status = comm_broadcast(comm, 0, data, odd ? sizeof data / 2 : sizeof data);
    error_capture_end();
    Status expected = odd ? STATUS_PEER : STATUS_OK;
    return status != expected || (odd && error_last(NULL) != ERROR_COMM);
}

int main(int argc, char **argv) {
    Comm *comm;
    bool by_message = argc > 1 && strcmp(argv[1], "--by-message") == 0;
    Status status = comm_mpi_create(&comm, by_message);
    if (status != STATUS_OK) return error_exit_code(status);
    comm->crowded = true;
    const char *expected_row = by_message || comm->size == 1 ? "mpi" : "shared";
    int failures = comm_property_check(comm, 11, ROUNDS);
    failures += strcmp(comm->row->name, expected_row) != 0;
    if (by_message && comm->size == 2) failures += check_refused_message(comm);
    if (failures)
        fprintf(stderr, "rank %d of %d: %d failed over row %s\n", comm->rank, comm->size, failures,
                comm->row->name);
    comm_destroy(comm);
    return failures != 0;
}

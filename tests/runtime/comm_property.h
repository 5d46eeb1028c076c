#ifndef TESTS_RUNTIME_COMM_PROPERTY_H
#define TESTS_RUNTIME_COMM_PROPERTY_H

/* What every Comm row must do, checked from inside a rank: random runs of collectives, the same on all ranks,
 * against what one process computes alone. Used with ranks as threads and with ranks under MPI. */

#include <stdint.h>

#include "runtime/comm/comm.h"

/* Runs `rounds` random collectives of random sizes and checks each result bit by bit. All ranks call it with the
 * same seed. Returns how many results of this rank were wrong, having said which on stderr. */
int comm_property_check(Comm *comm, uint64_t seed, int rounds);

#endif

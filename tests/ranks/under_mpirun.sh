#!/bin/sh
# under_mpirun.sh RANKS PROGRAM [ARGUMENT…]: runs the program under mpirun on this machine, however few its cores.
command -v mpirun > /dev/null || { echo "skipped: mpirun is not installed"; exit 77; }
ranks=$1
shift
as_root=
[ "$(id -u)" -ne 0 ] || as_root=--allow-run-as-root
exec mpirun $as_root --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none \
    --mca mpi_yield_when_idle 1 -n "$ranks" "$@"

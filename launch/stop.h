#ifndef LAUNCH_STOP_H
#define LAUNCH_STOP_H

/* What the outside asks of a running process, by signal:
 *   SIGUSR1            drain: take nothing new, finish what runs, exit 75
 *   SIGTERM, SIGINT    hurry: stop now, write what is done, exit 75; the second one exits 75 on the spot
 *   SIGUSR2            print the state and go on
 *   SIGPIPE, SIGXFSZ   ignored: the write that caused them fails instead
 *
 * While a model is loaded nothing runs that could be finished: where there is a watchdog, that ends it at the first of them.
 *
 * A thread of its own waits for the signals, so nothing here runs inside a handler. Call stop_install first in
 * main: threads started before it would take the signals with their default effect. */

#include "runtime/engine/engine.h"

SPILLWAY_EXTERN_C_BEGIN

/* print_state runs in the signal thread at each SIGUSR2, while the other threads go on; may be NULL. */
Status stop_install(void (*print_state)(void *user), void *user);

/* The strongest request so far. Any thread. */
StopRequest stop_requested(void);

/* An eventfd that becomes and stays readable with the first request, for poll; -1 before stop_install. */
int stop_descriptor(void);

/* From now on SIGINT calls `take` in the signal thread, and stops nothing: for a terminal where Ctrl-C means something
 * smaller. */
void stop_divert_interrupt(void (*take)(void *user), void *user);

SPILLWAY_EXTERN_C_END

#endif

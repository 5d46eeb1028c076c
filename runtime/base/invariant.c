#include "runtime/base/invariant.h"

#include <unistd.h>

void invariant_broken(const char *file, int line, const char *expression) {
    (void)error_raise(ERROR_INVARIANT,
                      "%s:%d: broken invariant: %s (please report it with this line)", file, line,
                      expression);
    _exit(error_row(ERROR_INVARIANT)->exit_code);
}

#ifndef RUNTIME_COMM_DEVICE_MARKS_H
#define RUNTIME_COMM_DEVICE_MARKS_H

/* Marks in a device's work, by which its host tells slow from stuck: a queue says nothing about itself until it has ended, and that of a
 * step may take minutes. A mark is an event; they are made in an order in which they also pass. What lies between two should take well
 * under a second. Few may be on their way at once: so is the work that a wait elsewhere, which looks at no mark, waits for.
 *
 * One thread. Borrows the device. */

#include <stdbool.h>

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

enum { DEVICE_MARKS_MAX = 24 };

typedef struct DeviceMark {
    DeviceEvent *event;
    const char
        *where;    /* the work that it ends, for messages: "in front of", "in", "behind" a sum */
    uint64_t sum;  /* of which number */
    bool of_peers; /* that work waits for other ranks; else it is the device's own */
} DeviceMark;

typedef struct DeviceMarks {
    Device *device;
    DeviceMark ring[DEVICE_MARKS_MAX];
    uint64_t made, passed;
} DeviceMarks;

Status device_marks_open(DeviceMarks *marks, Device *device);
void device_marks_close(DeviceMarks *marks); /* takes a zeroed one */

uint64_t device_marks_pending(const DeviceMarks *marks);
const DeviceMark *device_marks_oldest(const DeviceMarks *marks); /* of those pending; one must be */
const DeviceMark *device_marks_newest(const DeviceMarks *marks); /* one must have been made */

/* Behind what the stream has; mark's event is filled in. There must be room for it. */
Status device_marks_make(DeviceMarks *marks, DeviceStream *stream, DeviceMark mark);
void device_marks_pass(DeviceMarks *marks); /* the oldest was seen to have passed */

SPILLWAY_EXTERN_C_END

#endif

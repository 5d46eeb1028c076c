#include "runtime/comm/device_marks.h"

#include "runtime/base/invariant.h"

Status device_marks_open(DeviceMarks *marks, Device *device) {
    *marks = (DeviceMarks){.device = device};
    for (int i = 0; i < DEVICE_MARKS_MAX; i++)
        TRY(device->event_create(device, &marks->ring[i].event));
    return STATUS_OK;
}

void device_marks_close(DeviceMarks *marks) {
    for (int i = 0; i < DEVICE_MARKS_MAX; i++)
        if (marks->ring[i].event) marks->device->event_destroy(marks->device, marks->ring[i].event);
    *marks = (DeviceMarks){0};
}

uint64_t device_marks_pending(const DeviceMarks *marks) {
    return marks->made - marks->passed;
}

const DeviceMark *device_marks_oldest(const DeviceMarks *marks) {
    CHECK(device_marks_pending(marks) > 0);
    return &marks->ring[marks->passed % DEVICE_MARKS_MAX];
}

const DeviceMark *device_marks_newest(const DeviceMarks *marks) {
    CHECK(marks->made > 0);
    return &marks->ring[(marks->made - 1) % DEVICE_MARKS_MAX];
}

Status device_marks_make(DeviceMarks *marks, DeviceStream *stream, DeviceMark mark) {
    DeviceMark *made = &marks->ring[marks->made % DEVICE_MARKS_MAX];
    CHECK(device_marks_pending(marks) < DEVICE_MARKS_MAX);
    mark.event = made->event;
    TRY(marks->device->event_record(marks->device, mark.event, stream));
    *made = mark;
    marks->made++;
    return STATUS_OK;
}

void device_marks_pass(DeviceMarks *marks) {
    CHECK(device_marks_pending(marks) > 0);
    marks->passed++;
}

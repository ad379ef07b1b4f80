/* A client of an emulated device, for the stand-in libraries: `scheduler.devices.emulated.client` in C.
 *
 * It speaks the messages of emulated/wire.py and maps the memory of emulated/region.py; tests drive it against a real
 * device. A connection belongs to one thread at a time. Once the device has gone (-1), it stays gone: what was complete
 * before stays readable until the connection is closed.
 */
#ifndef KUAKA_EMULATED_CLIENT_H
#define KUAKA_EMULATED_CLIENT_H

#include <stddef.h>
#include <stdint.h>

enum { KUAKA_MAX_DESCRIPTORS = 1024 };

/* As in scheduler/devices/device.py. */
enum kuaka_operation { KUAKA_COMPRESS = 0, KUAKA_DECOMPRESS = 1, KUAKA_ZERO_SCAN = 2 };
enum kuaka_status {
    KUAKA_PENDING = 0,
    KUAKA_OK = 1,
    KUAKA_OVERFLOW = 2,
    KUAKA_PAGE_FAULT = 3,
    KUAKA_FAILED = 4
};

/* Offsets into the memory; the last is the room at the destination. */
struct kuaka_descriptor {
    uint32_t source, source_bytes, destination, capacity_bytes;
};

struct kuaka_device;

/* Connect and share `data_bytes`; NULL with errno set: no device there, disabled or full (EAGAIN), not ours (EPERM). */
struct kuaka_device *kuaka_device_open(const char *path, size_t data_bytes);
/* Entries of the queue, all clients' together. */
unsigned kuaka_device_slots(const struct kuaka_device *device);
/* How many of them were taken when the device last said so: a hint, it is late by one look of the device's. */
unsigned kuaka_device_occupancy(const struct kuaka_device *device);
unsigned char *kuaka_device_memory(struct kuaka_device *device);
/* KUAKA_MAX_DESCRIPTORS records; a status is written last, whatever is not KUAKA_PENDING is final. */
const volatile uint8_t *kuaka_device_status(const struct kuaka_device *device);
const volatile uint32_t *kuaka_device_output_bytes(const struct kuaka_device *device);
/* Queue descriptors from the front, their records from `first` on, none of which may be in flight. How many the queue
 * took; -1: the device has gone, or this is no batch (errno EINVAL, and the device is as it was). */
int kuaka_device_submit(struct kuaka_device *device, int operation, const struct kuaka_descriptor *descriptors,
                        unsigned count, unsigned first);
/* 1: nothing is in flight; 0: the time ran out (0 ns: one look); -1: the device has gone. */
int kuaka_device_wait(struct kuaka_device *device, int64_t timeout_ns);
/* End the connection and unmap the memory; NULL is nothing. */
void kuaka_device_close(struct kuaka_device *device);

#endif

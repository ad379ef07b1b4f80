/* See emulated_client.h. */
#define _GNU_SOURCE
#include "emulated_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* emulated/region.py. */
enum { OUTPUT_AT = KUAKA_MAX_DESCRIPTORS, OCCUPANCY_AT = 5 * KUAKA_MAX_DESCRIPTORS, DATA_AT = 8192 };

/* emulated/wire.py. */
enum { VERSION = 1, KIND_SUBMIT = 1, KIND_ACCEPTED = 65, KIND_DONE = 66, STATE_READY = 1 };
static const char MAGIC[4] = {'K', 'D', 'E', 'V'};
/* emulated/client.py: longest that a device may take to answer. */
static const int64_t ANSWER_NS = 250000000;

struct hello {
    char magic[4];
    uint16_t version, zero;
    uint32_t data_bytes;
};

struct welcome {
    char magic[4];
    uint16_t version, state;
    uint32_t slots, engines, costs[6];
};

struct submission {
    uint8_t kind, operation;
    uint16_t count, first, zero;
    uint32_t sequence;
    struct kuaka_descriptor descriptors[KUAKA_MAX_DESCRIPTORS];
};

struct answer {
    uint8_t kind, zero;
    uint16_t accepted;
    uint32_t sequence;
};

_Static_assert(sizeof(struct hello) == 12 && sizeof(struct welcome) == 40, "as wire.py packs them");
_Static_assert(offsetof(struct submission, descriptors) == 12 && sizeof(struct answer) == 8, "as wire.py packs them");
_Static_assert(sizeof(struct kuaka_descriptor) == 16, "as device.py's DESCRIPTOR");

struct kuaka_device {
    int socket;
    unsigned slots;
    uint32_t sequence;
    /* Submissions that the device has not said DONE of. */
    unsigned in_flight;
    unsigned char *region;
    size_t region_bytes;
    struct submission message;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* 1: there is something to read; 0: the time ran out; -1: an error. */
static int await_readable(int fd, int64_t deadline_ns)
{
    for (;;) {
        int64_t left_ns = deadline_ns - now_ns();
        struct timespec left = {0, 0};
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        if (left_ns > 0) {
            left.tv_sec = left_ns / 1000000000;
            left.tv_nsec = left_ns % 1000000000;
        }
        int ready = ppoll(&polled, 1, &left, NULL);
        if (ready >= 0 || errno != EINTR)
            return ready;
    }
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval bound = {.tv_sec = 0, .tv_usec = (suseconds_t)(ANSWER_NS / 1000)};
    struct ucred peer;
    socklen_t peer_bytes = sizeof peer;
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int wrong = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound) != 0 ||
        connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes) != 0)
        wrong = errno;
    else if (peer.uid != getuid())
        wrong = EPERM;
    if (wrong) {
        close(fd);
        errno = wrong;
        return -1;
    }
    return fd;
}

/* The descriptor that comes with the welcome; -1 with errno set. */
static int receive_welcome(int fd, struct welcome *welcome)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = welcome, .iov_len = sizeof *welcome};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    int ready = await_readable(fd, now_ns() + ANSWER_NS);
    if (ready <= 0) {
        if (ready == 0)
            errno = ETIMEDOUT;
        return -1;
    }
    ssize_t received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (received < 0)
        return -1;
    int shared = -1;
    struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    if (first && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SCM_RIGHTS &&
        first->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&shared, CMSG_DATA(first), sizeof shared);
    int ours = received == (ssize_t)sizeof *welcome && memcmp(welcome->magic, MAGIC, sizeof MAGIC) == 0 &&
               welcome->version == VERSION;
    if (ours && welcome->state == STATE_READY && shared >= 0)
        return shared;
    if (shared >= 0)
        close(shared);
    errno = received == 0 ? ECONNRESET : ours && welcome->state != STATE_READY ? EAGAIN : EPROTO;
    return -1;
}

static unsigned char *map_region(int shared, size_t region_bytes)
{
    struct stat found;
    if (fstat(shared, &found) != 0)
        return NULL;
    if (found.st_size != (off_t)region_bytes) {
        errno = EPROTO;
        return NULL;
    }
    /* Populated: a page fault in a copy would be counted as the device's time. */
    void *region = mmap(NULL, region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, shared, 0);
    return region == MAP_FAILED ? NULL : region;
}

struct kuaka_device *kuaka_device_open(const char *path, size_t data_bytes)
{
    struct hello hello = {.version = VERSION, .data_bytes = (uint32_t)data_bytes};
    struct welcome welcome;
    if (data_bytes == 0 || data_bytes > UINT32_MAX) {
        errno = EINVAL;
        return NULL;
    }
    memcpy(hello.magic, MAGIC, sizeof MAGIC);
    struct kuaka_device *device = calloc(1, sizeof *device);
    if (!device)
        return NULL;
    device->region_bytes = DATA_AT + data_bytes;
    device->socket = connect_to(path);
    if (device->socket >= 0 &&
        send(device->socket, &hello, sizeof hello, MSG_NOSIGNAL) == (ssize_t)sizeof hello) {
        int shared = receive_welcome(device->socket, &welcome);
        if (shared >= 0) {
            device->slots = welcome.slots;
            device->region = map_region(shared, device->region_bytes);
            int kept = errno;
            close(shared);
            errno = kept;
        }
    }
    if (device->region)
        return device;
    int kept = errno;
    kuaka_device_close(device);
    errno = kept;
    return NULL;
}

unsigned kuaka_device_slots(const struct kuaka_device *device)
{
    return device->slots;
}

unsigned kuaka_device_occupancy(const struct kuaka_device *device)
{
    return *(const volatile uint32_t *)(const void *)(device->region + OCCUPANCY_AT);
}

unsigned char *kuaka_device_memory(struct kuaka_device *device)
{
    return device->region + DATA_AT;
}

const volatile uint8_t *kuaka_device_status(const struct kuaka_device *device)
{
    return device->region;
}

const volatile uint32_t *kuaka_device_output_bytes(const struct kuaka_device *device)
{
    return (const volatile uint32_t *)(const void *)(device->region + OUTPUT_AT);
}

static int gone(struct kuaka_device *device)
{
    if (device->socket >= 0)
        close(device->socket);
    device->socket = -1;
    return -1;
}

/* One message of the device's: 1, 0 when the time ran out, -1 when the device has gone. */
static int receive(struct kuaka_device *device, struct answer *answer, int64_t deadline_ns)
{
    int ready = await_readable(device->socket, deadline_ns);
    if (ready < 0)
        return gone(device);
    if (ready == 0)
        return 0;
    if (recv(device->socket, answer, sizeof *answer, 0) != (ssize_t)sizeof *answer)
        return gone(device);
    if (answer->kind == KIND_DONE && device->in_flight > 0)
        device->in_flight--;
    else if (answer->kind != KIND_ACCEPTED)
        return gone(device);
    return 1;
}

int kuaka_device_submit(struct kuaka_device *device, int operation, const struct kuaka_descriptor *descriptors,
                        unsigned count, unsigned first)
{
    if (device->socket < 0)
        return -1;
    if (count == 0 || first >= KUAKA_MAX_DESCRIPTORS || count > KUAKA_MAX_DESCRIPTORS - first) {
        errno = EINVAL;
        return -1;
    }
    struct submission *message = &device->message;
    size_t message_bytes = offsetof(struct submission, descriptors) + count * sizeof *descriptors;
    message->kind = KIND_SUBMIT;
    message->operation = (uint8_t)operation;
    message->count = (uint16_t)count;
    message->first = (uint16_t)first;
    message->sequence = ++device->sequence;
    memcpy(message->descriptors, descriptors, count * sizeof *descriptors);
    memset(device->region + first, KUAKA_PENDING, count);
    if (send(device->socket, message, message_bytes, MSG_NOSIGNAL) != (ssize_t)message_bytes)
        return gone(device);
    int64_t deadline_ns = now_ns() + ANSWER_NS;
    struct answer answer;
    while (receive(device, &answer, deadline_ns) > 0) {
        if (answer.kind != KIND_ACCEPTED || answer.sequence != device->sequence)
            continue;
        if (answer.accepted > count)
            break;
        if (answer.accepted > 0)
            device->in_flight++;
        return answer.accepted;
    }
    return gone(device);
}

int kuaka_device_wait(struct kuaka_device *device, int64_t timeout_ns)
{
    int64_t deadline_ns = now_ns() + timeout_ns;
    struct answer answer;
    while (device->socket >= 0 && device->in_flight > 0) {
        int received = receive(device, &answer, deadline_ns);
        if (received <= 0)
            return received;
    }
    return device->socket < 0 ? -1 : 1;
}

void kuaka_device_close(struct kuaka_device *device)
{
    if (!device)
        return;
    if (device->socket >= 0)
        close(device->socket);
    if (device->region)
        munmap(device->region, device->region_bytes);
    free(device);
}

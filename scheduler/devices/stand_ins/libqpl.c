/* A stand-in for libqpl: its C ABI and its habits, good and bad, over an emulated device.
 *
 * The layout, sizes, codes and traps are those measured of libqpl 1.6 (x86-64). The hardware path is the calling
 * thread's connection (`kuaka_stand_in_connect`): without one there is no work queue here. A job reads and writes its
 * caller's memory, so bytes are copied to and from the device's when a job is submitted and when it is found complete.
 *
 * A message per page would make the emulated device's process the bottleneck. So an accepted job is kept, and all kept
 * ones go out as one message when one of them is first asked about. Whether the queue is full is told from what the
 * device published last, and what it refuses after all is sent again when there is room.
 *
 * Known to differ: a connection that has ended answers 503 (libqpl: busy for ever, as it opens its queues once), and
 * its jobs end with 6; the first pass of dynamic Huffman is a compression whose output is dropped.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "emulated_client.h"
#include "libqpl_software.h"

/* Symbols that the library has; everything else is hidden by `static`. */
#define PUBLIC __attribute__((visibility("default")))

enum { PATH_AUTO = 0, PATH_HARDWARE = 1, PATH_SOFTWARE = 2 };
enum { OP_DECOMPRESS = 0, OP_COMPRESS = 1 };
enum { FLAG_FIRST = 1, FLAG_DYNAMIC = 0x2000, FLAG_OMIT_VERIFY = 0x4000 };
enum { HIGH_LEVEL = 3 };
enum {
    QPL_BEING_PROCESSED = 1,
    QPL_BUSY = 5,
    QPL_INTERNAL = 6,
    QPL_NOT_SUBMITTED = 7,
    QPL_NULL_POINTER = 50,
    QPL_OPERATION = 51,
    QPL_PATH = 54,
    QPL_SIZE = 57,
    QPL_TOO_LARGE = 58,
    QPL_OVERLAP = 59,
    QPL_UNSUPPORTED_LEVEL = 87,
    QPL_VERIFY = 229,
    QPL_PAGE_FAULT = 303,
    QPL_DEVICE_ERROR = 310,
    QPL_WRITE_FAULT = 431,
    QPL_NO_WORK_QUEUES = 503
};

typedef struct {
    uint8_t *next_in_ptr;
    uint32_t available_in, total_in;
    uint8_t *next_out_ptr;
    uint32_t available_out, total_out;
    uint32_t op, flags, crc, xor_checksum, last_bit_offset, level, statistics_mode;
    void *huffman_table, *dictionary;
    uint32_t mini_block_size;
    uint64_t *idx_array;
    uint32_t idx_max_size, idx_num_written;
    uint8_t decomp_end_processing, ignore_start_bits, ignore_end_bits;
    uint64_t crc64_poly, crc64;
    uint8_t *next_src2_ptr;
    uint32_t available_src2, src1_bit_width, src2_bit_width, num_input_elements, out_bit_width;
    uint32_t param_low, param_high, drop_initial_bytes, initial_output_index, parser;
    uint32_t first_index_min_value, last_index_max_value, sum_value;
    int32_t numa_id;
    uint8_t *compress_state, *decompress_state, *analytics_state, *middle_layer_buffer, *hardware_state;
    uint32_t path;
} qpl_job;

_Static_assert(sizeof(qpl_job) == 240 && offsetof(qpl_job, path) == 232, "libqpl 1.6, x86-64");
_Static_assert(offsetof(qpl_job, op) == 32 && offsetof(qpl_job, huffman_table) == 64, "libqpl 1.6, x86-64");
_Static_assert(offsetof(qpl_job, crc64_poly) == 112 && offsetof(qpl_job, numa_id) == 188, "libqpl 1.6, x86-64");

enum { AUTO_BYTES = 830784, HARDWARE_BYTES = 188736, SOFTWARE_BYTES = 740864 };
/* Places of the states behind the head; only the first is used here. */
enum { STATE_AT = 256, STATE_BYTES = 64 };

/* What a job is doing. */
enum phase { IDLE, KEPT, SENT, LOST, ENDED };
/* Which descriptor of it: dynamic Huffman has one before, verification one behind. */
enum pass { STATISTICS, WORK, VERIFICATION };

struct state {
    struct connection *connection;
    uint32_t phase, pass, record;
    /* How it ended, once it has. */
    uint32_t code, output_bytes;
    /* Done by the CPU although it was to go to the device. */
    uint32_t fell_back;
};
_Static_assert(sizeof(struct state) <= STATE_BYTES, "within the job");

/* Each record has room for a page and a stream that did not shrink; one job at a time may have the large room. */
enum { RECORDS = 256, SMALL_BYTES = 5376, LARGE_BYTES = 4 << 20, LARGE_AT = RECORDS * 2 * SMALL_BYTES };
enum { DATA_BYTES = LARGE_AT + 2 * LARGE_BYTES, NO_RECORD = RECORDS };

struct connection {
    /* NULL once it was replaced. */
    struct kuaka_device *device;
    int gone;
    /* Jobs by record; NULL: free. */
    qpl_job *jobs[RECORDS];
    struct kuaka_descriptor descriptors[RECORDS];
    uint8_t operations[RECORDS];
    /* Records of kept jobs in the order of their submission. */
    uint32_t kept[RECORDS];
    uint32_t kept_count, used_count, next_record, large_record;
};

static __thread struct connection *mine;

/* Disturbances of this thread's jobs. */
static __thread struct {
    uint32_t busy, fault, error;
    uint64_t random;
} disturbance;

/* Results by their destination, for a device that takes no time at all (`kuaka_stand_in_instant`). */
enum { INSTANT_OFF, INSTANT_LEARN, INSTANT_REPLAY, LEARNT_BITS = 14, LEARNT = 1 << LEARNT_BITS };
struct learnt {
    const uint8_t *source, *destination;
    uint32_t code, output_bytes;
};
static __thread struct learnt *learnt;
static __thread int instant;

static struct state *state_of(const qpl_job *job)
{
    return (struct state *)(void *)job->hardware_state;
}

static int happens(uint32_t per_million)
{
    if (!per_million)
        return 0;
    disturbance.random ^= disturbance.random << 13;
    disturbance.random ^= disturbance.random >> 7;
    disturbance.random ^= disturbance.random << 17;
    return disturbance.random % 1000000 < per_million;
}

/* The connection. */

static void forget(struct connection *connection, uint32_t record)
{
    connection->jobs[record] = NULL;
    connection->used_count--;
    if (connection->large_record == record)
        connection->large_record = NO_RECORD;
    /* Memory that is warm, rather than all of it in turn. */
    if (!connection->used_count)
        connection->next_record = 0;
    if (!connection->device && !connection->used_count)
        free(connection);
}

static void disconnect(void)
{
    struct connection *left = mine;
    mine = NULL;
    if (!left)
        return;
    kuaka_device_close(left->device);
    left->device = NULL;
    left->gone = 1;
    if (!left->used_count)
        free(left);
}

/* The calling thread's work queue from now on; NULL: none. 0, or -1 with errno set. */
PUBLIC int kuaka_stand_in_connect(const char *path)
{
    disconnect();
    if (!path)
        return 0;
    struct connection *made = calloc(1, sizeof *made);
    if (!made)
        return -1;
    made->device = kuaka_device_open(path, DATA_BYTES);
    if (!made->device) {
        free(made);
        return -1;
    }
    made->large_record = NO_RECORD;
    mine = made;
    return 0;
}

PUBLIC void kuaka_stand_in_disturb(uint32_t busy_per_million, uint32_t fault_per_million, uint32_t error_per_million,
                                   uint64_t seed)
{
    disturbance.busy = busy_per_million;
    disturbance.fault = fault_per_million;
    disturbance.error = error_per_million;
    disturbance.random = seed * 2654435769u + 1;
}

/* The calling thread's hardware takes no time: 1: results are computed and learnt by their destination, 2: what was
 * learnt is told again and nothing is written, the destination having kept it. 0: no more of that. */
PUBLIC int kuaka_stand_in_instant(int mode)
{
    if (mode == INSTANT_LEARN) {
        free(learnt);
        learnt = calloc(LEARNT, sizeof *learnt);
    }
    instant = learnt ? mode : INSTANT_OFF;
    return instant == mode ? 0 : -1;
}

static int full(const struct connection *connection)
{
    return kuaka_device_occupancy(connection->device) + connection->kept_count >=
           kuaka_device_slots(connection->device);
}

static void keep(struct connection *connection, uint32_t record)
{
    connection->kept[connection->kept_count++] = record;
    state_of(connection->jobs[record])->phase = KEPT;
}

/* Send what is kept: runs of neighbouring records that ask for the same. */
static void flush(struct connection *connection)
{
    uint32_t sent = 0;
    while (sent < connection->kept_count &&
           kuaka_device_occupancy(connection->device) < kuaka_device_slots(connection->device)) {
        uint32_t *kept = connection->kept + sent, count = 1;
        while (sent + count < connection->kept_count && kept[count] == kept[0] + count &&
               connection->operations[kept[count]] == connection->operations[kept[0]])
            count++;
        int taken = kuaka_device_submit(connection->device, connection->operations[kept[0]],
                                        connection->descriptors + kept[0], count, kept[0]);
        if (taken < 0) {
            connection->gone = 1;
            break;
        }
        for (int index = 0; index < taken; index++)
            state_of(connection->jobs[kept[index]])->phase = SENT;
        sent += (uint32_t)taken;
        if ((uint32_t)taken < count)
            break;
    }
    connection->kept_count -= sent;
    memmove(connection->kept, connection->kept + sent, connection->kept_count * sizeof *connection->kept);
}

/* Submitting. */

static void describe(struct connection *connection, uint32_t record, int operation)
{
    const qpl_job *job = connection->jobs[record];
    struct kuaka_descriptor *descriptor = connection->descriptors + record;
    int large = connection->large_record == record;
    uint32_t room = large ? LARGE_BYTES : SMALL_BYTES, at = large ? LARGE_AT : record * 2 * SMALL_BYTES;
    *descriptor = (struct kuaka_descriptor){at, job->available_in, at + room, job->available_out};
    if (descriptor->capacity_bytes > room)
        descriptor->capacity_bytes = room;
    connection->operations[record] = (uint8_t)operation;
}

/* Have the stream that was written decoded into its source's place, which has been read. */
static void describe_verification(struct connection *connection, uint32_t record, uint32_t stream_bytes)
{
    struct kuaka_descriptor *descriptor = connection->descriptors + record;
    *descriptor = (struct kuaka_descriptor){descriptor->destination, stream_bytes, descriptor->source,
                                            descriptor->source_bytes};
    connection->operations[record] = KUAKA_DECOMPRESS;
}

static unsigned hardware_submit(qpl_job *job)
{
    struct connection *connection = mine;
    struct state *state = state_of(job);
    if (!connection || connection->gone)
        return QPL_NO_WORK_QUEUES;
    int large = job->available_in > SMALL_BYTES || job->available_out > SMALL_BYTES;
    uint32_t record = connection->next_record;
    if (job->available_in > LARGE_BYTES)
        return QPL_TOO_LARGE;
    if (happens(disturbance.busy) || full(connection) || connection->jobs[record] ||
        (large && connection->large_record != NO_RECORD))
        return QPL_BUSY;
    if (large)
        connection->large_record = record;
    connection->jobs[record] = job;
    connection->used_count++;
    connection->next_record = (record + 1) % RECORDS;
    describe(connection, record, job->op == OP_COMPRESS ? KUAKA_COMPRESS : KUAKA_DECOMPRESS);
    memcpy(kuaka_device_memory(connection->device) + connection->descriptors[record].source, job->next_in_ptr,
           job->available_in);
    state->connection = connection;
    state->record = record;
    state->pass = job->op == OP_COMPRESS && job->flags & FLAG_DYNAMIC ? STATISTICS : WORK;
    keep(connection, record);
    return QPL_OK;
}

static unsigned software(const qpl_job *job, uint32_t *written)
{
    return job->op == OP_COMPRESS
               ? software_compress(job->next_in_ptr, job->available_in, job->next_out_ptr, job->available_out,
                                   written)
               : software_decompress(job->next_in_ptr, job->available_in, job->next_out_ptr, job->available_out,
                                     written);
}

static void advance(qpl_job *job, uint32_t output_bytes)
{
    job->total_in += job->available_in;
    job->next_in_ptr += job->available_in;
    job->available_in = 0;
    job->total_out += output_bytes;
    job->next_out_ptr += output_bytes;
    job->available_out -= output_bytes;
}

static unsigned software_execute(qpl_job *job)
{
    uint32_t written = 0;
    unsigned code = software(job, &written);
    /* Its verification looks back 32 KiB only. */
    if (code == QPL_OK && job->op == OP_COMPRESS && !(job->flags & FLAG_OMIT_VERIFY) && job->available_in >= 32768)
        return QPL_VERIFY;
    if (code == QPL_OK)
        advance(job, written);
    return code;
}

/* The entry of a destination, or a free one for it; the table is never near full. */
static struct learnt *known_of(const uint8_t *destination)
{
    uint32_t at = (uint32_t)((uintptr_t)destination * 0x9e3779b97f4a7c15u >> (64 - LEARNT_BITS));
    while (learnt[at].destination && learnt[at].destination != destination)
        at = (at + 1) % LEARNT;
    return learnt + at;
}

static unsigned instant_submit(qpl_job *job)
{
    struct state *state = state_of(job);
    struct learnt *known = known_of(job->next_out_ptr);
    if (instant != INSTANT_REPLAY || known->source != job->next_in_ptr) {
        uint32_t written = 0;
        unsigned code = software(job, &written);
        *known = (struct learnt){job->next_in_ptr, job->next_out_ptr, code, written};
    }
    state->code = known->code;
    state->output_bytes = known->output_bytes;
    state->phase = ENDED;
    return QPL_OK;
}

static unsigned wrong(const qpl_job *job)
{
    if (!job || !job->next_in_ptr || !job->next_out_ptr || !job->hardware_state)
        return QPL_NULL_POINTER;
    if (job->op != OP_COMPRESS && job->op != OP_DECOMPRESS)
        return QPL_OPERATION;
    if (!job->available_in || !job->available_out)
        return QPL_SIZE;
    if (job->next_in_ptr < job->next_out_ptr + job->available_out &&
        job->next_out_ptr < job->next_in_ptr + job->available_in)
        return QPL_OVERLAP;
    return QPL_OK;
}

PUBLIC unsigned qpl_submit_job(qpl_job *job)
{
    unsigned code = wrong(job);
    if (code)
        return code;
    struct state *state = state_of(job);
    if (job->flags & FLAG_FIRST)
        job->total_in = job->total_out = 0;
    state->fell_back = 0;
    if (job->path != PATH_SOFTWARE) {
        int high = job->op == OP_COMPRESS && job->level == HIGH_LEVEL;
        code = high ? QPL_UNSUPPORTED_LEVEL : instant ? instant_submit(job) : hardware_submit(job);
        if (job->path == PATH_HARDWARE || !code)
            return code;
        state->fell_back = 1;
    }
    return software_execute(job);
}

/* Asking. */

static unsigned end(qpl_job *job, unsigned code, uint32_t output_bytes)
{
    struct state *state = state_of(job);
    if (state->phase != ENDED)
        forget(state->connection, state->record);
    state->phase = ENDED;
    state->code = code;
    state->output_bytes = output_bytes;
    if (code == QPL_OK)
        advance(job, output_bytes);
    return code;
}

/* The next descriptor of a job: a queue that has no room for it loses the job, for libqpl marks it as under way. */
static unsigned again(qpl_job *job)
{
    struct state *state = state_of(job);
    struct connection *connection = state->connection;
    if (happens(disturbance.busy) || full(connection)) {
        forget(connection, state->record);
        state->phase = LOST;
        return QPL_BUSY;
    }
    keep(connection, state->record);
    return QPL_BEING_PROCESSED;
}

static unsigned worked(qpl_job *job, uint32_t output_bytes)
{
    struct state *state = state_of(job);
    struct connection *connection = state->connection;
    if (state->pass == STATISTICS) {
        state->pass = WORK;
        return again(job);
    }
    const struct kuaka_descriptor *descriptor = connection->descriptors + state->record;
    memcpy(job->next_out_ptr, kuaka_device_memory(connection->device) + descriptor->destination, output_bytes);
    if (job->op == OP_DECOMPRESS || job->flags & FLAG_OMIT_VERIFY)
        return end(job, QPL_OK, output_bytes);
    state->pass = VERIFICATION;
    state->output_bytes = output_bytes;
    describe_verification(connection, state->record, output_bytes);
    return again(job);
}

/* libqpl stores what does not compress by the caller's CPU, if that fits. */
static unsigned overflowed(qpl_job *job)
{
    if (job->op != OP_COMPRESS || stored_bytes(job->available_in) > job->available_out)
        return end(job, QPL_MORE_OUTPUT, 0);
    return end(job, QPL_OK, store(job->next_in_ptr, job->available_in, job->next_out_ptr));
}

/* The device says that a stream is none; which of its rules it breaks the decoder finds out. */
static unsigned failed(qpl_job *job)
{
    uint32_t written = 0;
    if (job->op == OP_COMPRESS)
        return end(job, QPL_DEVICE_ERROR, 0);
    unsigned code = software(job, &written);
    return end(job, code, written);
}

static unsigned completed(qpl_job *job)
{
    struct state *state = state_of(job);
    struct connection *connection = state->connection;
    unsigned status = kuaka_device_status(connection->device)[state->record];
    uint32_t output_bytes = kuaka_device_output_bytes(connection->device)[state->record];
    if (status == KUAKA_PAGE_FAULT || happens(disturbance.fault))
        return end(job, state->record % 2 ? QPL_WRITE_FAULT : QPL_PAGE_FAULT, 0);
    if (happens(disturbance.error))
        return end(job, QPL_DEVICE_ERROR, 0);
    if (state->pass == VERIFICATION) {
        int right = status == KUAKA_OK && output_bytes == job->available_in;
        return end(job, right ? QPL_OK : QPL_VERIFY, state->output_bytes);
    }
    if (status == KUAKA_OVERFLOW)
        return overflowed(job);
    return status == KUAKA_OK ? worked(job, output_bytes) : failed(job);
}

PUBLIC unsigned qpl_check_job(qpl_job *job)
{
    if (!job || !job->hardware_state)
        return QPL_NULL_POINTER;
    struct state *state = state_of(job);
    /* Of what the software did, only the submission said how it ended. */
    if (job->path == PATH_SOFTWARE || state->fell_back)
        return QPL_OK;
    struct connection *connection = state->connection;
    switch (state->phase) {
    case IDLE:
        return QPL_NOT_SUBMITTED;
    case LOST:
        return QPL_BEING_PROCESSED;
    case ENDED:
        /* As libqpl does it: whoever asks again counts the output again. */
        return end(job, state->code, state->output_bytes);
    case KEPT:
        if (connection == mine && !connection->gone)
            flush(connection);
        break;
    default:
        break;
    }
    if (connection->device && state->phase == SENT &&
        kuaka_device_status(connection->device)[state->record] != KUAKA_PENDING)
        return completed(job);
    if (connection == mine && !connection->gone && kuaka_device_wait(connection->device, 0) < 0)
        connection->gone = 1;
    return connection->gone ? end(job, QPL_INTERNAL, 0) : QPL_BEING_PROCESSED;
}

PUBLIC unsigned qpl_wait_job(qpl_job *job)
{
    unsigned code;
    while ((code = qpl_check_job(job)) == QPL_BEING_PROCESSED)
        if (mine && !mine->gone)
            kuaka_device_wait(mine->device, 1000000);
    return code;
}

PUBLIC unsigned qpl_execute_job(qpl_job *job)
{
    unsigned code = qpl_submit_job(job);
    if (code || job->path == PATH_SOFTWARE)
        return code;
    code = qpl_wait_job(job);
    /* Here alone a fault is tried once more, the page having been touched. */
    if (code != QPL_PAGE_FAULT && code != QPL_WRITE_FAULT)
        return code;
    code = qpl_submit_job(job);
    return code ? code : qpl_wait_job(job);
}

/* Life. */

PUBLIC unsigned qpl_get_job_size(uint32_t path, uint32_t *size)
{
    static const uint32_t SIZES[] = {AUTO_BYTES, HARDWARE_BYTES, SOFTWARE_BYTES};
    if (!size)
        return QPL_NULL_POINTER;
    if (path > PATH_SOFTWARE)
        return QPL_PATH;
    *size = SIZES[path];
    return QPL_OK;
}

PUBLIC unsigned qpl_init_job(uint32_t path, qpl_job *job)
{
    if (path > PATH_SOFTWARE)
        return QPL_PATH;
    if (!job)
        return QPL_NULL_POINTER;
    memset(job, 0, STATE_AT + STATE_BYTES);
    job->hardware_state = (uint8_t *)job + STATE_AT;
    job->compress_state = job->decompress_state = job->analytics_state = job->hardware_state;
    job->middle_layer_buffer = job->hardware_state;
    job->numa_id = -1;
    job->path = path;
    if (path != PATH_HARDWARE || instant || (mine && !mine->gone))
        return QPL_OK;
    job->path = PATH_SOFTWARE;
    return QPL_NO_WORK_QUEUES;
}

/* Takes nothing back: what is under way stays so, and its record with it. */
PUBLIC unsigned qpl_fini_job(qpl_job *job)
{
    return job && job->hardware_state ? QPL_OK : QPL_NULL_POINTER;
}

PUBLIC const char *qpl_get_library_version(void)
{
    return "1.6.0";
}

PUBLIC uint32_t qpl_get_safe_deflate_compression_buffer_size(uint32_t source_size)
{
    uint64_t size = (uint64_t)stored_bytes(source_size) + 34;
    size += size % 2;
    return size > UINT32_MAX ? 0 : (uint32_t)size;
}

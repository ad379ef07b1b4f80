/* A stand-in for libqatzip.so.3: the real symbols and layouts (QATzip 1.2 and later), an emulated device for hardware.
 *
 * `kuaka_stand_in_connect` makes the emulated device at a socket the calling thread's hardware; a thread without one has
 * none, and gets the real library's answers for that. A source is cut into members of the session's buffer size, up to
 * MAX_MEMBERS of them in flight; the device does raw deflate, what a format puts around it is added here: a header,
 * checksum and footer, or four bytes of length, or nothing.
 *
 * Imitated because a binding must survive it: no hardware is no error where software is allowed, and nothing then tells
 * software from hardware (the extended result stays 0); an attempt to attach after one that failed is a duplicate;
 * inputs below the threshold are compressed in software whether it is allowed or not; small streams, streams of other
 * formats and members beyond the buffer are for software too, an error where there is none; a call has no time limit; a
 * thread that gets no instance may get one the next time; a stream behind four bytes of length is written where it would
 * lie if all before it held full buffers. The software path stores instead of compressing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emulated_client.h"

enum {
    QZ_OK = 0,
    QZ_DUPLICATE = 1,
    QZ_PARAMS = -1,
    QZ_FAIL = -2,
    QZ_BUF_ERROR = -3,
    QZ_DATA_ERROR = -4,
    QZ_NO_HW = 11,
    QZ_NO_INST_ATTACH = 13,
    QZ_LOW_MEM = 14,
    QZ_UNSUPPORTED_FMT = 16,
    QZ_NOSW_NO_HW = -101,
    QZ_NOSW_NO_INST_ATTACH = -103,
    QZ_NOSW_LOW_MEM = -104
};
enum { QZ_DEFLATE_4B = 0, QZ_DEFLATE_GZIP = 1, QZ_DEFLATE_GZIP_EXT = 2, QZ_DEFLATE_RAW = 3 };
enum { QZ_DEFLATE = 8, QZ_DIR_BOTH = 2, PINNED_MEM = 1 };

typedef struct {
    signed long hw_session_stat;
    int thd_sess_stat;
    void *internal;
    unsigned long total_in, total_out;
} QzSession_T;

typedef struct {
    int huffman_hdr, direction, data_fmt;
    unsigned comp_lvl;
    unsigned char comp_algorithm;
    unsigned max_forks;
    unsigned char sw_backup;
    unsigned hw_buff_sz, strm_buff_sz, input_sz_thrshold, req_cnt_thrshold, wait_cnt_thrshold;
} QzSessionParams_T;

typedef struct {
    int direction;
    unsigned comp_lvl;
    unsigned char comp_algorithm;
    unsigned max_forks;
    unsigned char sw_backup;
    unsigned hw_buff_sz, strm_buff_sz, input_sz_thrshold, req_cnt_thrshold, wait_cnt_thrshold;
    int polling_mode;
    unsigned is_sensitive_mode;
} QzSessionParamsCommon_T;

typedef struct {
    QzSessionParamsCommon_T common_params;
    int huffman_hdr, data_fmt;
} QzSessionParamsDeflate_T;

typedef struct {
    QzSessionParamsDeflate_T deflate_params;
    unsigned char stop_decompression_stream_end, zlib_format;
} QzSessionParamsDeflateExt_T;

typedef struct {
    unsigned short qat_hw_count;
    unsigned char qat_service_init, qat_mem_drvr, qat_instance_attach;
    unsigned long memory_alloced;
    unsigned char using_huge_pages;
    signed long hw_session_status;
    unsigned char algo_sw[255], algo_hw[255];
} QzStatus_T;

_Static_assert(sizeof(QzSession_T) == 40 && sizeof(QzSessionParams_T) == 48, "as the real ones");
_Static_assert(sizeof(QzSessionParamsCommon_T) == 48 && sizeof(QzSessionParamsDeflate_T) == 56, "as the real ones");
_Static_assert(sizeof(QzSessionParamsDeflateExt_T) == 60, "as the real one");

/* The header of a gzip-extended member, byte for byte; a footer of crc32 and source size ends the member. */
typedef struct __attribute__((packed)) {
    uint8_t id1, id2, method, flags;
    uint32_t mtime;
    uint8_t extra_flags, system;
    uint16_t extra_bytes;
    uint8_t subfield[2];
    uint16_t subfield_bytes;
    uint32_t source_bytes, stream_bytes;
} Header;

enum { HEADER_BYTES = 24, FOOTER_BYTES = 8, LENGTH_BYTES = 4, MAX_BUFFER = 64 * 1024, MIN_BUFFER = 1024 };
/* Eight of the largest members, with their two places each in the device's memory, or more that are smaller. */
enum { MAX_MEMBERS = 32, DEVICE_BYTES = 8 * 2 * (MAX_BUFFER + MAX_BUFFER / 2) };
enum { MAX_STORED = 65535, STORED_HEADER_BYTES = 5 };
enum { RETRIES = 500, RETRY_US = 100, LOOK_NS = 100000000 };
_Static_assert(sizeof(Header) == HEADER_BYTES, "packed");

/* Of a session that is set up. */
typedef struct {
    QzSessionParamsDeflate_T params;
    unsigned char zlib_format;
} Session;

static __thread struct kuaka_device *device;
static __thread uint64_t noise;
/* An attempt to attach found nothing. */
static __thread int searched;

static struct {
    uint32_t busy, fault, error;
    uint64_t seed;
} disturbance;

/* Eight tables, eight bytes a step: hardware has this for nothing, here it must not cost what it saves. */
static uint32_t crc_tables[8][256];

static void make_crc_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? 0xEDB88320u ^ (crc >> 1) : crc >> 1;
        crc_tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++) {
            uint32_t before = crc_tables[table - 1][byte];
            crc_tables[table][byte] = crc_tables[0][before & 0xFF] ^ (before >> 8);
        }
}

static uint32_t crc32_of(const unsigned char *data, size_t bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_crc_tables);
    uint32_t crc = ~0u;
    for (; bytes >= 8; data += 8, bytes -= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= crc;
        crc = crc_tables[7][low & 0xFF] ^ crc_tables[6][low >> 8 & 0xFF] ^ crc_tables[5][low >> 16 & 0xFF] ^
              crc_tables[4][low >> 24] ^ crc_tables[3][high & 0xFF] ^ crc_tables[2][high >> 8 & 0xFF] ^
              crc_tables[1][high >> 16 & 0xFF] ^ crc_tables[0][high >> 24];
    }
    for (; bytes; data++, bytes--)
        crc = crc_tables[0][(crc ^ *data) & 0xFF] ^ (crc >> 8);
    return ~crc;
}

int kuaka_stand_in_connect(const char *path)
{
    kuaka_device_close(device);
    device = kuaka_device_open(path, DEVICE_BYTES);
    return device ? 0 : -errno;
}

void kuaka_stand_in_disturb(uint32_t busy_per_million, uint32_t fault_per_million, uint32_t error_per_million,
                            uint64_t seed)
{
    disturbance.busy = busy_per_million;
    disturbance.fault = fault_per_million;
    disturbance.error = error_per_million;
    disturbance.seed = seed;
    noise = 0;
}

/* What befalls this call: QZ_OK for nothing. */
static int draw(void)
{
    if (!(disturbance.busy | disturbance.fault | disturbance.error))
        return QZ_OK;
    if (!noise)
        noise = disturbance.seed * 0x9E3779B97F4A7C15u | 1;
    noise ^= noise << 13;
    noise ^= noise >> 7;
    noise ^= noise << 17;
    uint32_t drawn = (uint32_t)((noise >> 11) % 1000000);
    if (drawn < disturbance.busy)
        return QZ_NOSW_NO_INST_ATTACH;
    if (drawn < disturbance.busy + disturbance.fault)
        return QZ_LOW_MEM;
    return drawn < disturbance.busy + disturbance.fault + disturbance.error ? QZ_FAIL : QZ_OK;
}

static void copy_out(volatile unsigned char *to, uint32_t value)
{
    for (int shift = 0; shift < 32; shift += 8)
        *to++ = (unsigned char)(value >> shift);
}

static uint32_t copy_in(const unsigned char *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* The life of a session. */

int qzInit(QzSession_T *session, unsigned char sw_backup)
{
    if (!session)
        return QZ_PARAMS;
    if (device)
        return session->internal ? QZ_DUPLICATE : QZ_OK;
    if (searched)
        return QZ_DUPLICATE;
    searched = 1;
    session->hw_session_stat = sw_backup & 1 ? QZ_NO_HW : QZ_NOSW_NO_HW;
    return sw_backup & 1 ? QZ_OK : QZ_NOSW_NO_HW;
}

int qzGetDefaultsDeflate(QzSessionParamsDeflate_T *params)
{
    if (!params)
        return QZ_PARAMS;
    *params = (QzSessionParamsDeflate_T){
        .common_params = {.direction = QZ_DIR_BOTH,
                          .comp_lvl = 1,
                          .comp_algorithm = QZ_DEFLATE,
                          .max_forks = 3,
                          .sw_backup = 1,
                          .hw_buff_sz = MAX_BUFFER,
                          .strm_buff_sz = MAX_BUFFER,
                          .input_sz_thrshold = 1024,
                          .req_cnt_thrshold = 32,
                          .wait_cnt_thrshold = 8},
        .data_fmt = QZ_DEFLATE_GZIP_EXT,
    };
    return QZ_OK;
}

int qzGetDefaultsDeflateExt(QzSessionParamsDeflateExt_T *params)
{
    if (!params)
        return QZ_PARAMS;
    memset(params, 0, sizeof *params);
    return qzGetDefaultsDeflate(&params->deflate_params);
}

int qzGetDefaults(QzSessionParams_T *params)
{
    QzSessionParamsDeflate_T defaults;
    if (!params)
        return QZ_PARAMS;
    qzGetDefaultsDeflate(&defaults);
    const QzSessionParamsCommon_T *common = &defaults.common_params;
    *params = (QzSessionParams_T){defaults.huffman_hdr,       common->direction,        defaults.data_fmt,
                                  common->comp_lvl,           common->comp_algorithm,   common->max_forks,
                                  common->sw_backup,          common->hw_buff_sz,       common->strm_buff_sz,
                                  common->input_sz_thrshold,  common->req_cnt_thrshold, common->wait_cnt_thrshold};
    return QZ_OK;
}

int qzSetupSessionDeflateExt(QzSession_T *session, QzSessionParamsDeflateExt_T *wanted)
{
    QzSessionParamsDeflateExt_T params;
    if (!session)
        return QZ_PARAMS;
    qzGetDefaultsDeflateExt(&params);
    if (wanted)
        params = *wanted;
    const QzSessionParamsCommon_T *common = &params.deflate_params.common_params;
    unsigned buffer = common->hw_buff_sz;
    int format = params.deflate_params.data_fmt;
    if (common->comp_algorithm != QZ_DEFLATE || common->comp_lvl < 1 || common->comp_lvl > 12 || buffer < MIN_BUFFER ||
        buffer > MAX_BUFFER || (buffer & (buffer - 1)) || common->input_sz_thrshold < 128 ||
        common->direction < 0 || common->direction > QZ_DIR_BOTH || format < 0 || format > QZ_DEFLATE_RAW)
        return QZ_PARAMS;
    if (!device && !(common->sw_backup & 1)) {
        session->hw_session_stat = QZ_NOSW_NO_HW;
        return QZ_NOSW_NO_HW;
    }
    if (session->internal)
        return QZ_DUPLICATE;
    Session *made = calloc(1, sizeof *made);
    if (!made)
        return QZ_FAIL;
    made->params = params.deflate_params;
    made->zlib_format = params.zlib_format;
    session->internal = made;
    session->hw_session_stat = device ? QZ_OK : QZ_NO_HW;
    return QZ_OK;
}

int qzSetupSessionDeflate(QzSession_T *session, QzSessionParamsDeflate_T *wanted)
{
    QzSessionParamsDeflateExt_T params = {.zlib_format = 0};
    if (!wanted)
        return qzSetupSessionDeflateExt(session, NULL);
    params.deflate_params = *wanted;
    return qzSetupSessionDeflateExt(session, &params);
}

int qzSetupSession(QzSession_T *session, QzSessionParams_T *wanted)
{
    QzSessionParamsDeflate_T params;
    if (!wanted)
        return qzSetupSessionDeflate(session, NULL);
    qzGetDefaultsDeflate(&params);
    params.common_params.direction = wanted->direction;
    params.common_params.comp_lvl = wanted->comp_lvl;
    params.common_params.comp_algorithm = wanted->comp_algorithm;
    params.common_params.sw_backup = wanted->sw_backup;
    params.common_params.hw_buff_sz = wanted->hw_buff_sz;
    params.common_params.input_sz_thrshold = wanted->input_sz_thrshold;
    params.huffman_hdr = wanted->huffman_hdr;
    params.data_fmt = wanted->data_fmt;
    return qzSetupSessionDeflate(session, &params);
}

int qzTeardownSession(QzSession_T *session)
{
    if (!session)
        return QZ_PARAMS;
    free(session->internal);
    session->internal = NULL;
    return QZ_OK;
}

/* The real one keeps the hardware for the process; here the thread's connection ends, or it would have no end. */
int qzClose(QzSession_T *session)
{
    if (!session)
        return QZ_PARAMS;
    kuaka_device_close(device);
    device = NULL;
    return QZ_OK;
}

/* The real one fills in nothing. */
int qzGetStatus(QzSession_T *session, QzStatus_T *status)
{
    return session && status ? QZ_OK : QZ_PARAMS;
}

int qzSetLogLevel(int level)
{
    return level >= 0 && level <= 6 ? QZ_OK : QZ_PARAMS;
}

void *qzMalloc(size_t bytes, int numa, int force_pinned)
{
    (void)numa;
    if (force_pinned == PINNED_MEM && !device)
        return NULL;
    void *memory = NULL;
    return posix_memalign(&memory, 4096, bytes) == 0 ? memory : NULL;
}

void qzFree(void *memory)
{
    free(memory);
}

unsigned qzMaxCompressedLength(unsigned source_bytes, QzSession_T *session)
{
    (void)session;
    if (!source_bytes)
        return 34;
    unsigned members = (source_bytes + MAX_BUFFER - 1) / MAX_BUFFER;
    uint64_t bytes = (9 * (uint64_t)source_bytes + 7) / 8 + 48 + members * (uint64_t)(HEADER_BYTES + FOOTER_BYTES);
    return bytes >> 32 ? 0 : (unsigned)bytes;
}

/* The device's part of a call. */

/* Have the device do `count` members of a round, all of them, however often its queue is full. QZ_OK, QZ_FAIL. */
static int run(int operation, const struct kuaka_descriptor *jobs, unsigned count)
{
    unsigned taken = 0, retries = 0;
    int in_flight;
    while (taken < count && retries < RETRIES) {
        int accepted = kuaka_device_submit(device, operation, jobs + taken, count - taken, taken);
        if (accepted < 0)
            return QZ_FAIL;
        taken += (unsigned)accepted;
        if (taken < count) {
            retries++;
            usleep(RETRY_US);
        }
    }
    /* Whatever is in flight writes to memory that the next call uses. */
    while ((in_flight = kuaka_device_wait(device, LOOK_NS)) == 0)
        continue;
    return in_flight < 0 || taken < count ? QZ_FAIL : QZ_OK;
}

/* One of a member's places; the device's arithmetic, which never stores, makes random bytes a quarter longer. */
static uint32_t place_bytes(const Session *made)
{
    return made->params.common_params.hw_buff_sz + made->params.common_params.hw_buff_sz / 2;
}

static unsigned members_of(const Session *made)
{
    unsigned fit = DEVICE_BYTES / 2 / place_bytes(made);
    return fit < MAX_MEMBERS ? fit : MAX_MEMBERS;
}

static unsigned char *place_of(const Session *made, unsigned member, int second)
{
    return kuaka_device_memory(device) + (2 * member + (second != 0)) * (size_t)place_bytes(made);
}

static struct kuaka_descriptor job_of(const Session *made, unsigned member, uint32_t source_bytes,
                                      uint32_t capacity_bytes)
{
    uint32_t at = 2 * member * place_bytes(made);
    return (struct kuaka_descriptor){at, source_bytes, at + place_bytes(made), capacity_bytes};
}

static void put_header(unsigned char *to, uint32_t source_bytes, uint32_t stream_bytes)
{
    Header header = {.id1 = 0x1f,
                     .id2 = 0x8b,
                     .method = QZ_DEFLATE,
                     .flags = 4,
                     .system = 255,
                     .extra_bytes = 12,
                     .subfield = {'Q', 'Z'},
                     .subfield_bytes = 8,
                     .source_bytes = source_bytes,
                     .stream_bytes = stream_bytes};
    memcpy(to, &header, sizeof header);
}

static uint32_t stored_bytes(uint32_t source_bytes)
{
    return source_bytes + (source_bytes + MAX_STORED - 1) / MAX_STORED * STORED_HEADER_BYTES;
}

/* `source` as stored blocks, the last of them final. */
static void put_stored(unsigned char *to, const unsigned char *source, uint32_t source_bytes)
{
    while (source_bytes) {
        uint32_t bytes = source_bytes < MAX_STORED ? source_bytes : MAX_STORED;
        to[0] = bytes == source_bytes;
        to[1] = (unsigned char)bytes;
        to[2] = (unsigned char)(bytes >> 8);
        to[3] = (unsigned char)~to[1];
        to[4] = (unsigned char)~to[2];
        memcpy(to + STORED_HEADER_BYTES, source, bytes);
        to += STORED_HEADER_BYTES + bytes;
        source += bytes;
        source_bytes -= bytes;
    }
}

/* One member of a stream, as the session's format has it, stored where `stream` is NULL or longer than that; bytes
 * written, 0 where there is no room. */
static unsigned put_member(int format, const unsigned char *source, uint32_t source_bytes, const unsigned char *stream,
                           uint32_t stream_bytes, unsigned char *to, unsigned room)
{
    unsigned header = format == QZ_DEFLATE_RAW ? 0 : format == QZ_DEFLATE_4B ? LENGTH_BYTES : HEADER_BYTES;
    unsigned around = format == QZ_DEFLATE_GZIP_EXT ? header + FOOTER_BYTES : header;
    int stored = !stream || stream_bytes > stored_bytes(source_bytes);
    if (stored)
        stream_bytes = stored_bytes(source_bytes);
    if (room < around || room - around < stream_bytes)
        return 0;
    unsigned char *body = to + header;
    if (stored)
        put_stored(body, source, source_bytes);
    else
        memcpy(body, stream, stream_bytes);
    if (format == QZ_DEFLATE_4B)
        copy_out(to, stream_bytes);
    if (format == QZ_DEFLATE_GZIP_EXT) {
        put_header(to, source_bytes, stream_bytes);
        copy_out(body + stream_bytes, crc32_of(source, source_bytes));
        copy_out(body + stream_bytes + 4, source_bytes);
    }
    return around + stream_bytes;
}

static int compress_round(const Session *made, const unsigned char *source, unsigned *source_bytes,
                          unsigned char *to, unsigned *room)
{
    struct kuaka_descriptor jobs[MAX_MEMBERS] = {{0}};
    uint32_t buffer = made->params.common_params.hw_buff_sz;
    unsigned count = 0, read = 0, written = 0;
    for (; count < members_of(made) && read < *source_bytes; count++) {
        uint32_t bytes = *source_bytes - read < buffer ? *source_bytes - read : buffer;
        memcpy(place_of(made, count, 0), source + read, bytes);
        jobs[count] = job_of(made, count, bytes, place_bytes(made));
        read += bytes;
    }
    int result = run(KUAKA_COMPRESS, jobs, count);
    read = 0;
    for (unsigned member = 0; result == QZ_OK && member < count; member++) {
        if (kuaka_device_status(device)[member] != KUAKA_OK) {
            result = QZ_FAIL;
            break;
        }
        unsigned put = put_member(made->params.data_fmt, source + read, jobs[member].source_bytes,
                                  place_of(made, member, 1), kuaka_device_output_bytes(device)[member], to + written,
                                  *room - written);
        if (!put)
            result = QZ_BUF_ERROR;
        else
            read += jobs[member].source_bytes;
        written += put;
    }
    *source_bytes = read;
    *room = written;
    return result;
}

/* What hardware takes of one: a buffer that grew by an eighth, and a little. */
static uint32_t largest_stream(uint32_t buffer)
{
    return 9 * buffer / 8 + 1024;
}

/* Whether hardware can do this member; its header is read into `header`. */
static int read_header(const unsigned char *from, unsigned left, uint32_t buffer, unsigned room, Header *header)
{
    if (left < HEADER_BYTES)
        return QZ_DATA_ERROR;
    memcpy(header, from, sizeof *header);
    if (header->id1 != 0x1f || header->id2 != 0x8b || header->method != QZ_DEFLATE || header->flags != 4 ||
        header->system != 255 || header->extra_bytes != 12 || memcmp(header->subfield, "QZ", 2) != 0 ||
        header->subfield_bytes != 8)
        return QZ_FAIL;
    if (header->source_bytes > buffer || header->stream_bytes > largest_stream(buffer))
        return QZ_NOSW_LOW_MEM;
    if (header->stream_bytes == 0 || header->stream_bytes > left - HEADER_BYTES ||
        left - HEADER_BYTES - header->stream_bytes < FOOTER_BYTES)
        return QZ_DATA_ERROR;
    return header->source_bytes > room ? QZ_BUF_ERROR : QZ_OK;
}

static int decompress_round(const Session *made, const unsigned char *stream, unsigned *stream_bytes,
                            unsigned char *to, unsigned *room)
{
    struct kuaka_descriptor jobs[MAX_MEMBERS];
    Header headers[MAX_MEMBERS];
    uint32_t buffer = made->params.common_params.hw_buff_sz;
    unsigned count = 0, read = 0, written = 0, promised = 0;
    int stopped = QZ_OK;
    while (count < members_of(made) && read < *stream_bytes) {
        Header *header = &headers[count];
        stopped = read_header(stream + read, *stream_bytes - read, buffer, *room - promised, header);
        if (stopped != QZ_OK)
            break;
        memcpy(place_of(made, count, 0), stream + read + HEADER_BYTES, header->stream_bytes);
        jobs[count] = job_of(made, count, header->stream_bytes, header->source_bytes);
        count++;
        read += HEADER_BYTES + header->stream_bytes + FOOTER_BYTES;
        promised += header->source_bytes;
    }
    int result = count ? run(KUAKA_DECOMPRESS, jobs, count) : QZ_OK;
    read = 0;
    for (unsigned member = 0; result == QZ_OK && member < count; member++) {
        uint32_t bytes = headers[member].source_bytes;
        const unsigned char *footer = stream + read + HEADER_BYTES + headers[member].stream_bytes;
        if (kuaka_device_status(device)[member] != KUAKA_OK) {
            result = QZ_FAIL;
        } else if (kuaka_device_output_bytes(device)[member] != bytes || copy_in(footer + 4) != bytes ||
                   copy_in(footer) != crc32_of(place_of(made, member, 1), bytes)) {
            result = QZ_DATA_ERROR;
        } else {
            memcpy(to + written, place_of(made, member, 1), bytes);
            written += bytes;
            read += HEADER_BYTES + headers[member].stream_bytes + FOOTER_BYTES;
        }
    }
    *stream_bytes = read;
    *room = written;
    return result != QZ_OK ? result : stopped;
}

static int one_block(const unsigned char *stream, uint32_t stream_bytes)
{
    return stream_bytes > 0 && (stream[0] & 1);
}

/* Streams behind their lengths, each of one block that ends there: how long their output is, only the output says. */
static int decompress_lengths_round(const Session *made, const unsigned char *stream, unsigned *stream_bytes,
                                    unsigned char *to, unsigned *room)
{
    struct kuaka_descriptor jobs[MAX_MEMBERS];
    uint32_t buffer = made->params.common_params.hw_buff_sz;
    unsigned count = 0, read = 0, written = 0, promised = 0;
    int stopped = QZ_OK;
    while (count < members_of(made) && read < *stream_bytes) {
        unsigned left = *stream_bytes - read;
        uint32_t bytes = left < LENGTH_BYTES ? 0 : copy_in(stream + read);
        if (bytes > largest_stream(buffer))
            stopped = QZ_NOSW_LOW_MEM;
        else if (!bytes || bytes > left - LENGTH_BYTES)
            stopped = QZ_DATA_ERROR;
        else if (promised >= *room)
            stopped = QZ_BUF_ERROR;
        else if (!one_block(stream + read + LENGTH_BYTES, bytes))
            stopped = QZ_FAIL;
        if (stopped != QZ_OK)
            break;
        uint32_t capacity = *room - promised < buffer ? *room - promised : buffer;
        memcpy(place_of(made, count, 0), stream + read + LENGTH_BYTES, bytes);
        jobs[count] = job_of(made, count, bytes, capacity);
        count++;
        read += LENGTH_BYTES + bytes;
        promised += capacity;
    }
    int result = count ? run(KUAKA_DECOMPRESS, jobs, count) : QZ_OK;
    promised = 0;
    for (unsigned member = 0; result == QZ_OK && member < count; member++) {
        uint32_t bytes = kuaka_device_output_bytes(device)[member];
        if (kuaka_device_status(device)[member] != KUAKA_OK) {
            result = QZ_FAIL;
        } else {
            memcpy(to + promised, place_of(made, member, 1), bytes);
            promised += jobs[member].capacity_bytes;
            written += bytes;
        }
    }
    *stream_bytes = read;
    *room = written;
    return result != QZ_OK ? result : stopped;
}

/* Hardware takes a raw stream only where it is one block that ends there, and its output stays below the buffer. */
static int decompress_raw(const Session *made, const unsigned char *stream, unsigned *stream_bytes, unsigned char *to,
                          unsigned *room)
{
    uint32_t buffer = made->params.common_params.hw_buff_sz;
    if (!one_block(stream, *stream_bytes) || *stream_bytes > largest_stream(buffer))
        return QZ_FAIL;
    struct kuaka_descriptor job = job_of(made, 0, *stream_bytes, buffer - 1);
    memcpy(place_of(made, 0, 0), stream, *stream_bytes);
    int result = run(KUAKA_DECOMPRESS, &job, 1);
    if (result != QZ_OK || kuaka_device_status(device)[0] != KUAKA_OK)
        return QZ_FAIL;
    uint32_t bytes = kuaka_device_output_bytes(device)[0];
    if (bytes > *room)
        return QZ_BUF_ERROR;
    memcpy(to, place_of(made, 0, 1), bytes);
    *room = bytes;
    return QZ_OK;
}

/* The software path: stored members, and those alone. */

static int store(const Session *made, const unsigned char *source, unsigned *source_bytes, unsigned char *to,
                 unsigned *room)
{
    unsigned read = 0, written = 0;
    while (read < *source_bytes) {
        uint32_t bytes = *source_bytes - read < MAX_BUFFER ? *source_bytes - read : MAX_BUFFER;
        unsigned put =
            put_member(made->params.data_fmt, source + read, bytes, NULL, 0, to + written, *room - written);
        if (!put)
            return QZ_BUF_ERROR;
        read += bytes;
        written += put;
    }
    *room = written;
    return QZ_OK;
}

static int unstore(const unsigned char *stream, unsigned *stream_bytes, unsigned char *to, unsigned *room)
{
    unsigned read = 0, written = 0;
    while (read < *stream_bytes) {
        Header header;
        int result = read_header(stream + read, *stream_bytes - read, MAX_BUFFER, *room - written, &header);
        if (result != QZ_OK)
            return result;
        if (header.stream_bytes != stored_bytes(header.source_bytes))
            return QZ_DATA_ERROR;
        const unsigned char *block = stream + read + HEADER_BYTES;
        for (uint32_t left = header.source_bytes; left;) {
            uint32_t bytes = left < MAX_STORED ? left : MAX_STORED;
            memcpy(to + written, block + STORED_HEADER_BYTES, bytes);
            block += STORED_HEADER_BYTES + bytes;
            written += bytes;
            left -= bytes;
        }
        read += HEADER_BYTES + header.stream_bytes + FOOTER_BYTES;
    }
    *room = written;
    return QZ_OK;
}

/* The calls. */

/* Where a call goes: QZ_OK to the device, QZ_NO_HW to software, anything else is its result. */
static int route(QzSession_T *session, int for_software)
{
    const Session *made = session->internal;
    if (for_software || !device)
        return made->params.common_params.sw_backup & 1 ? QZ_NO_HW : for_software ? QZ_FAIL : QZ_NOSW_NO_HW;
    int drawn = draw();
    if (drawn == QZ_OK)
        return QZ_OK;
    if (drawn == QZ_NOSW_NO_INST_ATTACH)
        session->hw_session_stat = QZ_NO_INST_ATTACH;
    return made->params.common_params.sw_backup & 1 ? QZ_NO_HW : drawn;
}

typedef int Round(const Session *, const unsigned char *, unsigned *, unsigned char *, unsigned *);

/* Rounds until all is read; *from_bytes and *to_bytes become what was read and written. */
static int in_rounds(Round *one_round, const Session *made, const unsigned char *from, unsigned *from_bytes,
                     unsigned char *to, unsigned *to_bytes)
{
    unsigned read = 0, written = 0;
    int result = QZ_OK;
    while (result == QZ_OK && read < *from_bytes) {
        unsigned part = *from_bytes - read, room = *to_bytes - written;
        result = one_round(made, from + read, &part, to + written, &room);
        read += part;
        written += room;
    }
    *from_bytes = read;
    *to_bytes = written;
    return result;
}

static int refuse(unsigned *source_bytes, unsigned *output_bytes, int result)
{
    if (source_bytes)
        *source_bytes = 0;
    if (output_bytes)
        *output_bytes = 0;
    return result;
}

int qzCompressExt(QzSession_T *session, const unsigned char *source, unsigned *source_bytes, unsigned char *to,
                  unsigned *to_bytes, unsigned last, uint64_t *ext_rc)
{
    if (ext_rc)
        *ext_rc = 0;
    if (!session || !source || !source_bytes || !to || !to_bytes || last > 1)
        return refuse(source_bytes, to_bytes, QZ_PARAMS);
    if (!session->internal) {
        int result = qzInit(session, 1);
        if (result >= 0)
            result = qzSetupSessionDeflate(session, NULL);
        if (result < 0)
            return refuse(source_bytes, to_bytes, result);
    }
    const Session *made = session->internal;
    int format = made->params.data_fmt;
    if (made->zlib_format || format == QZ_DEFLATE_GZIP ||
        (format == QZ_DEFLATE_RAW && *source_bytes > made->params.common_params.hw_buff_sz))
        return refuse(source_bytes, to_bytes, QZ_UNSUPPORTED_FMT);
    int small = *source_bytes < made->params.common_params.input_sz_thrshold;
    int way = small ? QZ_NO_HW : route(session, 0);
    if (way == QZ_NO_HW)
        return store(made, source, source_bytes, to, to_bytes);
    if (way != QZ_OK)
        return refuse(source_bytes, to_bytes, way);
    int result = in_rounds(compress_round, made, source, source_bytes, to, to_bytes);
    session->total_in = *source_bytes;
    session->total_out = *to_bytes;
    return session->thd_sess_stat = result;
}

int qzCompress(QzSession_T *session, const unsigned char *source, unsigned *source_bytes, unsigned char *to,
               unsigned *to_bytes, unsigned last)
{
    return qzCompressExt(session, source, source_bytes, to, to_bytes, last, NULL);
}

int qzDecompressExt(QzSession_T *session, const unsigned char *stream, unsigned *stream_bytes, unsigned char *to,
                    unsigned *to_bytes, uint64_t *ext_rc)
{
    if (ext_rc)
        *ext_rc = 0;
    if (!session || !stream || !stream_bytes || !to || !to_bytes)
        return refuse(stream_bytes, to_bytes, QZ_PARAMS);
    if (*stream_bytes == 0) {
        *to_bytes = 0;
        return QZ_OK;
    }
    if (!session->internal) {
        int result = qzInit(session, 1);
        if (result >= 0)
            result = qzSetupSessionDeflate(session, NULL);
        if (result < 0)
            return refuse(stream_bytes, to_bytes, result);
    }
    const Session *made = session->internal;
    int format = made->params.data_fmt, raw = format == QZ_DEFLATE_RAW, gzip = format == QZ_DEFLATE_GZIP_EXT;
    if (made->zlib_format || format == QZ_DEFLATE_GZIP)
        return refuse(stream_bytes, to_bytes, QZ_UNSUPPORTED_FMT);
    /* The threshold is compared with what the first header promises. */
    int small = gzip && (*stream_bytes < HEADER_BYTES ||
                         copy_in(stream + 16) < made->params.common_params.input_sz_thrshold);
    int way = route(session, small);
    int result;
    if (way == QZ_NO_HW && gzip)
        return unstore(stream, stream_bytes, to, to_bytes);
    if (way != QZ_OK)
        return refuse(stream_bytes, to_bytes, way);
    if (raw)
        result = decompress_raw(made, stream, stream_bytes, to, to_bytes);
    else
        result = in_rounds(gzip ? decompress_round : decompress_lengths_round, made, stream, stream_bytes, to,
                           to_bytes);
    if (result != QZ_OK && raw)
        return refuse(stream_bytes, to_bytes, result);
    session->total_in = *stream_bytes;
    session->total_out = *to_bytes;
    return session->thd_sess_stat = result;
}

int qzDecompress(QzSession_T *session, const unsigned char *stream, unsigned *stream_bytes, unsigned char *to,
                 unsigned *to_bytes)
{
    return qzDecompressExt(session, stream, stream_bytes, to, to_bytes, NULL);
}

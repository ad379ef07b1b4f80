/* Raw deflate as libqpl's software path does it: one fixed-Huffman block out, anything with a 4 KiB window in.
 *
 * A decoder of our own, because the errors are the point: libqpl says *which* rule a stream breaks, and refuses
 * distances beyond 4096 whatever the caller's buffer. It goes bit by bit; nobody needs it to be fast.
 */
#ifndef KUAKA_LIBQPL_SOFTWARE_H
#define KUAKA_LIBQPL_SOFTWARE_H

#include <stdint.h>
#include <string.h>

enum {
    QPL_OK = 0,
    QPL_MORE_OUTPUT = 2,
    QPL_BAD_LITERAL_CODE = 211,
    QPL_BAD_DISTANCE_CODE = 212,
    QPL_INVALID_BLOCK_TYPE = 213,
    QPL_INVALID_STORED_LENGTH = 214,
    QPL_BAD_END = 215,
    QPL_BAD_LENGTH = 216,
    QPL_BAD_DISTANCE = 217,
    QPL_REFERENCE_BEFORE_START = 218
};

enum { WINDOW = 4096, LONGEST_MATCH = 258, SHORTEST_MATCH = 4, HASH_BITS = 12 };
enum { MOST_STORED = 65535, END_OF_BLOCK = 256 };

static const uint16_t LENGTH_BASE[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t LENGTH_EXTRA[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t DISTANCE_BASE[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                           33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                           1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t DISTANCE_EXTRA[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                           6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

/* Writing. */

struct bits_out {
    uint8_t *next, *end;
    uint64_t held;
    unsigned held_bits;
    int full;
};

static void put(struct bits_out *out, uint32_t value, unsigned count)
{
    out->held |= (uint64_t)value << out->held_bits;
    out->held_bits += count;
    while (out->held_bits >= 8) {
        if (out->next == out->end) {
            out->full = 1;
            return;
        }
        *out->next++ = (uint8_t)out->held;
        out->held >>= 8;
        out->held_bits -= 8;
    }
}

/* Huffman codes go out from their highest bit. */
static void put_code(struct bits_out *out, uint32_t code, unsigned count)
{
    uint32_t reversed = 0;
    for (unsigned bit = 0; bit < count; bit++)
        reversed |= (code >> bit & 1) << (count - 1 - bit);
    put(out, reversed, count);
}

static void put_symbol(struct bits_out *out, unsigned symbol)
{
    if (symbol < 144)
        put_code(out, 0x30 + symbol, 8);
    else if (symbol < 256)
        put_code(out, 0x190 + symbol - 144, 9);
    else if (symbol < 280)
        put_code(out, symbol - 256, 7);
    else
        put_code(out, 0xc0 + symbol - 280, 8);
}

static void put_match(struct bits_out *out, unsigned length, unsigned distance)
{
    unsigned code = 28;
    while (LENGTH_BASE[code] > length)
        code--;
    put_symbol(out, 257 + code);
    put(out, length - LENGTH_BASE[code], LENGTH_EXTRA[code]);
    code = 29;
    while (DISTANCE_BASE[code] > distance)
        code--;
    put_code(out, code, 5);
    put(out, distance - DISTANCE_BASE[code], DISTANCE_EXTRA[code]);
}

static uint32_t stored_bytes(uint32_t size)
{
    return size + 5 * ((size + MOST_STORED - 1) / MOST_STORED);
}

static uint32_t store(const uint8_t *in, uint32_t size, uint8_t *out)
{
    uint32_t written = 0;
    for (uint32_t done = 0; done < size;) {
        uint32_t count = size - done < MOST_STORED ? size - done : MOST_STORED;
        uint16_t length = (uint16_t)count, inverse = (uint16_t)~count;
        out[written++] = done + count == size;
        memcpy(out + written, &length, 2);
        memcpy(out + written + 2, &inverse, 2);
        memcpy(out + written + 4, in + done, count);
        written += 4 + count;
        done += count;
    }
    return written;
}

/* One final block of fixed codes; where it does not fit, stored blocks; where these do not either, MORE_OUTPUT. */
static unsigned software_compress(const uint8_t *in, uint32_t size, uint8_t *destination, uint32_t capacity,
                                  uint32_t *written)
{
    int32_t last[1 << HASH_BITS];
    struct bits_out out = {destination, destination + capacity, 0, 0, 0};
    memset(last, 0xff, sizeof last);
    put(&out, 1, 1);
    put(&out, 1, 2);
    for (uint32_t at = 0; at < size && !out.full;) {
        uint32_t length = 0, distance = 0, word;
        if (size - at >= SHORTEST_MATCH) {
            memcpy(&word, in + at, 4);
            int32_t *place = &last[word * 2654435761u >> (32 - HASH_BITS)];
            distance = at - (uint32_t)*place;
            if (*place >= 0 && distance <= WINDOW)
                while (length < LONGEST_MATCH && at + length < size && in[at + length] == in[at + length - distance])
                    length++;
            *place = (int32_t)at;
        }
        if (length >= SHORTEST_MATCH) {
            put_match(&out, length, distance);
            at += length;
        } else {
            put_symbol(&out, in[at++]);
        }
    }
    put_symbol(&out, END_OF_BLOCK);
    put(&out, 0, 7);
    if (!out.full) {
        *written = (uint32_t)(out.next - destination);
        return QPL_OK;
    }
    if (stored_bytes(size) > capacity)
        return QPL_MORE_OUTPUT;
    *written = store(in, size, destination);
    return QPL_OK;
}

/* Reading. */

struct bits_in {
    const uint8_t *next, *end;
    uint32_t held;
    unsigned held_bits;
    int ended;
};

static unsigned take(struct bits_in *in, unsigned count)
{
    while (in->held_bits < count) {
        if (in->next == in->end) {
            in->ended = 1;
            return 0;
        }
        in->held |= (uint32_t)*in->next++ << in->held_bits;
        in->held_bits += 8;
    }
    unsigned value = in->held & ((1u << count) - 1);
    in->held >>= count;
    in->held_bits -= count;
    return value;
}

/* How many codes there are of each length, and their symbols in order of the codes. */
struct codes {
    uint16_t count[16], symbol[288];
};

/* 0 when the lengths are those of a usable code. */
static int make_codes(struct codes *codes, const uint8_t *lengths, unsigned symbols)
{
    uint16_t place[16] = {0};
    int left = 1;
    memset(codes->count, 0, sizeof codes->count);
    for (unsigned symbol = 0; symbol < symbols; symbol++)
        codes->count[lengths[symbol]]++;
    for (unsigned length = 1; length < 16; length++) {
        left = left * 2 - codes->count[length];
        if (left < 0)
            return -1;
        if (length < 15)
            place[length + 1] = (uint16_t)(place[length] + codes->count[length]);
    }
    for (unsigned symbol = 0; symbol < symbols; symbol++)
        if (lengths[symbol])
            codes->symbol[place[lengths[symbol]]++] = (uint16_t)symbol;
    return 0;
}

static int next_symbol(struct bits_in *in, const struct codes *codes)
{
    int code = 0, first = 0, index = 0;
    for (unsigned length = 1; length < 16; length++) {
        code |= (int)take(in, 1);
        if (in->ended)
            return -1;
        if (code - codes->count[length] < first)
            return codes->symbol[index + code - first];
        index += codes->count[length];
        first = (first + codes->count[length]) << 1;
        code <<= 1;
    }
    return -1;
}

static void fixed_codes(struct codes *literals, struct codes *distances)
{
    uint8_t lengths[288];
    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    memset(lengths + 280, 8, 8);
    make_codes(literals, lengths, 288);
    memset(lengths, 5, 30);
    make_codes(distances, lengths, 30);
}

static unsigned dynamic_codes(struct bits_in *in, struct codes *literals, struct codes *distances)
{
    static const uint8_t ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[288 + 32] = {0};
    unsigned literal_count = take(in, 5) + 257, distance_count = take(in, 5) + 1, used = take(in, 4) + 4;
    for (unsigned index = 0; index < used; index++)
        lengths[ORDER[index]] = (uint8_t)take(in, 3);
    if (in->ended)
        return QPL_BAD_END;
    if (literal_count > 286 || distance_count > 30 || make_codes(literals, lengths, 19))
        return QPL_BAD_LITERAL_CODE;
    for (unsigned index = 0; index < literal_count + distance_count;) {
        int symbol = next_symbol(in, literals);
        if (symbol < 0)
            return in->ended ? QPL_BAD_END : QPL_BAD_LITERAL_CODE;
        unsigned times = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol == 16) {
            if (index == 0)
                return QPL_BAD_LITERAL_CODE;
            value = lengths[index - 1];
            times = 3 + take(in, 2);
        } else if (symbol > 16) {
            value = 0;
            times = symbol == 17 ? 3 + take(in, 3) : 11 + take(in, 7);
        }
        if (index + times > literal_count + distance_count)
            return QPL_BAD_LITERAL_CODE;
        while (times--)
            lengths[index++] = value;
    }
    if (make_codes(distances, lengths + literal_count, distance_count))
        return QPL_BAD_DISTANCE_CODE;
    return make_codes(literals, lengths, literal_count) ? QPL_BAD_LITERAL_CODE : QPL_OK;
}

static unsigned read_stored(struct bits_in *in, uint8_t *out, uint32_t capacity, uint32_t *at)
{
    in->held = 0;
    in->held_bits = 0;
    if (in->end - in->next < 4)
        return QPL_BAD_END;
    uint32_t count = in->next[0] | (uint32_t)in->next[1] << 8, inverse = in->next[2] | (uint32_t)in->next[3] << 8;
    if (count != (~inverse & 0xffff))
        return QPL_INVALID_STORED_LENGTH;
    in->next += 4;
    if (in->end - in->next < (ptrdiff_t)count)
        return QPL_BAD_END;
    if (count > capacity - *at)
        return QPL_MORE_OUTPUT;
    memcpy(out + *at, in->next, count);
    in->next += count;
    *at += count;
    return QPL_OK;
}

static unsigned read_coded(struct bits_in *in, const struct codes *literals, const struct codes *distances,
                           uint8_t *out, uint32_t capacity, uint32_t *at)
{
    for (;;) {
        int symbol = next_symbol(in, literals);
        if (symbol < 0)
            return in->ended ? QPL_BAD_END : QPL_BAD_LITERAL_CODE;
        if (symbol == END_OF_BLOCK)
            return QPL_OK;
        if (symbol < END_OF_BLOCK) {
            if (*at == capacity)
                return QPL_MORE_OUTPUT;
            out[(*at)++] = (uint8_t)symbol;
            continue;
        }
        if (symbol > 285)
            return QPL_BAD_LENGTH;
        uint32_t length = LENGTH_BASE[symbol - 257] + take(in, LENGTH_EXTRA[symbol - 257]);
        int far = next_symbol(in, distances);
        if (far < 0 || far > 29)
            return in->ended ? QPL_BAD_END : QPL_BAD_DISTANCE_CODE;
        uint32_t distance = DISTANCE_BASE[far] + take(in, DISTANCE_EXTRA[far]);
        if (in->ended)
            return QPL_BAD_END;
        if (distance > WINDOW)
            return QPL_BAD_DISTANCE;
        if (distance > *at)
            return QPL_REFERENCE_BEFORE_START;
        for (; length; length--, (*at)++) {
            if (*at == capacity)
                return QPL_MORE_OUTPUT;
            out[*at] = out[*at - distance];
        }
    }
}

/* Stops behind the final block, whatever follows it, as libqpl does. */
static unsigned software_decompress(const uint8_t *source, uint32_t size, uint8_t *out, uint32_t capacity,
                                    uint32_t *written)
{
    struct bits_in in = {source, source + size, 0, 0, 0};
    struct codes literals, distances;
    uint32_t at = 0;
    unsigned final, status;
    do {
        final = take(&in, 1);
        unsigned type = take(&in, 2);
        if (in.ended)
            return QPL_BAD_END;
        if (type == 3)
            return QPL_INVALID_BLOCK_TYPE;
        if (type == 0) {
            status = read_stored(&in, out, capacity, &at);
        } else {
            status = QPL_OK;
            if (type == 1)
                fixed_codes(&literals, &distances);
            else
                status = dynamic_codes(&in, &literals, &distances);
            if (status == QPL_OK)
                status = read_coded(&in, &literals, &distances, out, capacity, &at);
        }
    } while (status == QPL_OK && !final);
    *written = at;
    return status;
}

#endif

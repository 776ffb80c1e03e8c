/* SPDX-License-Identifier: Apache-2.0 */
#ifdef HIDDENFOLD_UIO
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#endif

#include "hiddenfold_driver.h"

#include <string.h>

#define WATCHDOG_FACTOR 16u
#define WATCHDOG_EXTRA 1000000u
#define MAXIMUM_IMAGES 65535u
#define BEGIN_BYTES 8u
#define CRC_BYTES 4u
/* Of program files. */
#define HIDDENFOLD_FORMAT 2u

/* What is in memory before START, and after the end, is there for both sides: with uncached but
   bufferable memory, as on ARM, volatile is not enough. */
#ifndef HIDDENFOLD_BARRIER
#if defined(__GNUC__) || defined(__clang__)
#define HIDDENFOLD_BARRIER() __sync_synchronize()
#else
#error "define HIDDENFOLD_BARRIER() as this compiler's full memory barrier"
#endif
#endif

#ifdef HIDDENFOLD_CUSTOM_ACCESS
#define READ hiddenfold_read
#define WRITE hiddenfold_write
#else
static uint32_t READ(const struct hiddenfold *device, uint32_t offset)
{
    return ((const volatile uint32_t *)device->registers)[offset / 4];
}

static void WRITE(const struct hiddenfold *device, uint32_t offset, uint32_t value)
{
    ((volatile uint32_t *)device->registers)[offset / 4] = value;
}
#endif

uint32_t hiddenfold_register(const struct hiddenfold *device, uint32_t offset)
{
    return READ(device, offset);
}

uint64_t hiddenfold_counter(const struct hiddenfold *device, uint32_t offset)
{
    /* Reading the low word keeps the high word for the next read. */
    const uint64_t low = READ(device, offset);
    return low | (uint64_t)READ(device, offset + 4) << 32;
}

int hiddenfold_open(struct hiddenfold *device, void *registers)
{
    device->registers = registers;
    if (READ(device, HIDDENFOLD_REG_ID) != HIDDENFOLD_ID_VALUE)
        return HIDDENFOLD_FAIL_ID;
    if (READ(device, HIDDENFOLD_REG_VERSION) >> 16 != HIDDENFOLD_VERSION_VALUE >> 16)
        return HIDDENFOLD_FAIL_VERSION;
    return 0;
}

/* CRC-32 as in zlib, bit by bit: it is computed once. */
static uint32_t crc32(const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0xFFFFFFFFu;
    while (bytes--) {
        int bit;
        crc ^= *data++;
        for (bit = 0; bit < 8; ++bit)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static uint32_t little(const uint8_t *data)
{
    return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

/* Behind the value that begins at `at`: a string, or all up to the comma or bracket of its level. */
static const char *behind(const char *at, const char *end)
{
    int depth = 0, text = 0;
    for (; at < end; ++at) {
        if (text) {
            if (*at == '\\')
                ++at;
            else if (*at == '"')
                text = 0;
        } else if (*at == '"') {
            text = 1;
        } else if (*at == '{' || *at == '[') {
            ++depth;
        } else if (*at == '}' || *at == ']') {
            if (depth-- == 0)
                return at;
        } else if (*at == ',' && depth == 0) {
            return at;
        }
    }
    return end;
}

/* The value of a key of the object that begins at `at`, or NULL. The file has no blanks in it. */
static const char *find(const char *at, const char *end, const char *key)
{
    const size_t length = strlen(key);
    if (at == NULL || at >= end || *at != '{')
        return NULL;
    while (at < end && *at != '}') {
        const char *name = ++at;
        at = behind(at, end);
        if ((size_t)(at - name) > length + 3 && name[0] == '"' && name[length + 1] == '"' &&
            memcmp(name + 1, key, length) == 0)
            return name + length + 3;
    }
    return NULL;
}

/* A natural number; `*good` becomes 0 when there is none below 2^32. */
static uint32_t number(const char *at, const char *end, int *good)
{
    uint64_t value = 0;
    const char *first = at;
    if (at == NULL) {
        *good = 0;
        return 0;
    }
    for (; at < end && *at >= '0' && *at <= '9' && value <= 0xFFFFFFFFu; ++at)
        value = 10 * value + (uint64_t)(*at - '0');
    if (at == first || value > 0xFFFFFFFFu)
        *good = 0;
    return (uint32_t)value;
}

/* The number of elements of an array, which is not empty. */
static uint32_t count(const char *at, const char *end)
{
    uint32_t elements = 0;
    while (at != NULL && at < end && *at != ']') {
        at = behind(at + 1, end);
        ++elements;
    }
    return elements;
}

int hiddenfold_parse(struct hiddenfold_program *program, const void *file, size_t bytes)
{
    const uint8_t *data = (const uint8_t *)file;
    const char *header, *end, *image;
    uint32_t length;
    int good = 1;

    if (bytes < BEGIN_BYTES + CRC_BYTES || memcmp(data, "HFP1", 4) != 0)
        return HIDDENFOLD_FAIL_FILE;
    length = little(data + 4);
    if (length > bytes - BEGIN_BYTES - CRC_BYTES ||
        crc32(data, bytes - CRC_BYTES) != little(data + bytes - CRC_BYTES))
        return HIDDENFOLD_FAIL_FILE;
    header = (const char *)data + BEGIN_BYTES;
    end = header + length;
    if (number(find(header, end, "format"), end, &good) != HIDDENFOLD_FORMAT)
        return HIDDENFOLD_FAIL_FILE;
    image = find(header, end, "image");
    program->memory = data + BEGIN_BYTES + length;
    program->memory_bytes = number(find(header, end, "image_bytes"), end, &good);
    program->target_id = number(find(header, end, "target_id"), end, &good);
    program->height = image == NULL ? 0 : number(image + 1, end, &good);
    image = image == NULL ? NULL : behind(image + 1, end) + 1;
    program->width = number(image, end, &good);
    program->pitch = (4 * program->width + 15) / 16 * 16;
    program->batch = number(find(header, end, "batch"), end, &good);
    program->rows = number(find(find(header, end, "target_parameters"), end, "rows"), end, &good);
    program->classes = count(find(header, end, "classes"), end);
    program->logits = number(find(header, end, "logits"), end, &good);
    program->output_bytes = number(find(header, end, "output_bytes"), end, &good);
    program->scratch_bytes = number(find(header, end, "scratch_bytes"), end, &good);
    program->predicted_cycles = number(find(header, end, "predicted_cycles"), end, &good);
    /* A program with a trace has more output than logits, and is for tests. */
    if (!good || !program->batch || !program->rows || !program->height || !program->width ||
        program->height > 1024 || program->width > 1024 || program->batch > 255 ||
        program->classes > program->logits || program->logits % program->rows ||
        program->output_bytes != 4 * program->logits ||
        program->memory_bytes != bytes - BEGIN_BYTES - length - CRC_BYTES)
        return HIDDENFOLD_FAIL_FILE;
    if (program->target_id != HIDDENFOLD_TARGET_VALUE)
        return HIDDENFOLD_FAIL_TARGET;
    return 0;
}

int hiddenfold_place(const struct hiddenfold_program *program, uint32_t base, uint32_t bytes,
                     uint32_t images, struct hiddenfold_place *place)
{
    const uint64_t mask = 63;
    uint64_t at = base;

    if (images == 0 || images > MAXIMUM_IMAGES || images % program->batch)
        return HIDDENFOLD_FAIL_IMAGES;
    place->program = (uint32_t)at;
    at = (at + program->memory_bytes + mask) & ~mask;
    place->image = (uint32_t)at;
    place->image_bytes = images * program->height * program->pitch;
    at = (at + (uint64_t)images * program->height * program->pitch + mask) & ~mask;
    place->output = (uint32_t)at;
    place->output_bytes = images * program->output_bytes;
    at = (at + (uint64_t)images * program->output_bytes + mask) & ~mask;
    place->scratch = (uint32_t)at;
    if (program->scratch_bytes)
        at += program->scratch_bytes;
    else
        at = (uint64_t)place->output + place->output_bytes;
    if (base & mask || at > (uint64_t)base + bytes || at > (uint64_t)1 << 32)
        return HIDDENFOLD_FAIL_ROOM;
    return 0;
}

void hiddenfold_pack(const struct hiddenfold_program *program, const uint8_t *rgb, uint32_t images,
                     uint8_t *memory)
{
    uint32_t row, column;
    for (row = 0; row < images * program->height; ++row, memory += program->pitch) {
        memset(memory, 0, program->pitch);
        for (column = 0; column < program->width; ++column, rgb += 3)
            memcpy(memory + 4 * column, rgb, 3);
    }
}

int hiddenfold_start(const struct hiddenfold *device, const struct hiddenfold_program *program,
                     const struct hiddenfold_place *place, uint32_t images, uint32_t watchdog)
{
    const uint64_t expected =
        (uint64_t)WATCHDOG_FACTOR * images * program->predicted_cycles + WATCHDOG_EXTRA;

    if (READ(device, HIDDENFOLD_REG_STATUS) & HIDDENFOLD_STATUS_BUSY)
        return HIDDENFOLD_FAIL_BUSY;
    if (READ(device, HIDDENFOLD_REG_TARGET) != program->target_id)
        return HIDDENFOLD_FAIL_TARGET;
    /* Where it does not fit there is none, and the polls of hiddenfold_wait end the run. */
    if (watchdog == 0)
        watchdog = expected <= 0xFFFFFFFFu ? (uint32_t)expected : 0;
    WRITE(device, HIDDENFOLD_REG_PROGRAM, place->program);
    WRITE(device, HIDDENFOLD_REG_PROGRAM_SIZE, program->memory_bytes);
    WRITE(device, HIDDENFOLD_REG_IMAGE, place->image);
    WRITE(device, HIDDENFOLD_REG_IMAGE_SIZE, place->image_bytes);
    WRITE(device, HIDDENFOLD_REG_OUTPUT, place->output);
    WRITE(device, HIDDENFOLD_REG_OUTPUT_SIZE, place->output_bytes);
    WRITE(device, HIDDENFOLD_REG_SCRATCH, place->scratch);
    WRITE(device, HIDDENFOLD_REG_SCRATCH_SIZE, program->scratch_bytes);
    WRITE(device, HIDDENFOLD_REG_IMAGES, images);
    WRITE(device, HIDDENFOLD_REG_WATCHDOG, watchdog);
    HIDDENFOLD_BARRIER();
    WRITE(device, HIDDENFOLD_REG_CONTROL,
          HIDDENFOLD_CONTROL_START | HIDDENFOLD_CONTROL_IRQ_ENABLE);
    return 0;
}

int hiddenfold_wait(const struct hiddenfold *device, uint32_t polls)
{
    const uint32_t ended = HIDDENFOLD_STATUS_DONE | HIDDENFOLD_STATUS_ERROR;

    while (polls--) {
        const uint32_t status = READ(device, HIDDENFOLD_REG_STATUS);
        if (status & ended && !(status & HIDDENFOLD_STATUS_BUSY)) {
            WRITE(device, HIDDENFOLD_REG_CONTROL, 0);
            HIDDENFOLD_BARRIER();
            return status & HIDDENFOLD_STATUS_ERROR
                       ? (int)(READ(device, HIDDENFOLD_REG_ERROR) & 0xFFu)
                       : 0;
        }
    }
    return HIDDENFOLD_FAIL_TIMEOUT;
}

int hiddenfold_abort(const struct hiddenfold *device, uint32_t polls)
{
    WRITE(device, HIDDENFOLD_REG_CONTROL, HIDDENFOLD_CONTROL_ABORT);
    while (polls--)
        if (!(READ(device, HIDDENFOLD_REG_STATUS) & HIDDENFOLD_STATUS_BUSY))
            return 0;
    return HIDDENFOLD_FAIL_STUCK;
}

void hiddenfold_unpack(const struct hiddenfold_program *program, const uint8_t *memory,
                       uint32_t images, int32_t *logits)
{
    uint32_t image, label;
    for (image = 0; image < images; ++image) {
        const uint32_t in_batch = image % program->batch;
        const uint8_t *batch = memory + (size_t)(image - in_batch) * program->output_bytes;
        for (label = 0; label < program->classes; ++label) {
            /* Block by block, those of all images of the batch. */
            const uint32_t block = label / program->rows;
            const size_t place = ((size_t)block * program->batch + in_batch) * program->rows;
            const uint32_t word = little(batch + 4 * (place + label % program->rows));
            memcpy(logits++, &word, sizeof word);
        }
    }
}

uint32_t hiddenfold_best(const struct hiddenfold_program *program, const int32_t *logits)
{
    uint32_t label, best = 0;
    for (label = 1; label < program->classes; ++label)
        if (logits[label] > logits[best])
            best = label;
    return best;
}

const char *hiddenfold_message(int result)
{
    switch (result) {
    case 0:
        return "good";
#define TEXT(name, code, text) \
    case code:                 \
        return #name ": " text;
        HIDDENFOLD_ERRORS(TEXT)
#undef TEXT
    case HIDDENFOLD_FAIL_ID:
        return "no Hiddenfold accelerator: check the address of its registers and the bitstream";
    case HIDDENFOLD_FAIL_VERSION:
        return "another major version: use a bitstream and a driver of the same release";
    case HIDDENFOLD_FAIL_TARGET:
        return "the program was compiled for another target: compile it for this one";
    case HIDDENFOLD_FAIL_FILE:
        return "no program file, a damaged one, or one with a trace: compile the model again";
    case HIDDENFOLD_FAIL_ROOM:
        return "not enough memory, or not at a multiple of 64: use fewer images or more memory";
    case HIDDENFOLD_FAIL_IMAGES:
        return "the number of images must be a multiple of the program's batch in 1..65535";
    case HIDDENFOLD_FAIL_BUSY:
        return "a run is under way: wait for it or abort it";
    case HIDDENFOLD_FAIL_TIMEOUT:
        return "the run has not ended: abort it, check the memory and the clock, or wait longer";
    case HIDDENFOLD_FAIL_STUCK:
        return "the run does not stop, since memory never answers: reset the accelerator";
    case HIDDENFOLD_FAIL_SYSTEM:
        return "the operating system refused: see errno";
    default:
        return "unknown: hardware and driver are of different releases";
    }
}

#ifdef HIDDENFOLD_UIO
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define WINDOW_BYTES 4096

int hiddenfold_uio_open(struct hiddenfold *device, const char *path)
{
    void *window;
    int result;
    const int file = open(path, O_RDWR | O_SYNC);

    if (file < 0)
        return HIDDENFOLD_FAIL_SYSTEM;
    window = mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (window == MAP_FAILED)
        return HIDDENFOLD_FAIL_SYSTEM;
    result = hiddenfold_open(device, window);
    if (result != 0)
        hiddenfold_uio_close(device);
    return result;
}

void hiddenfold_uio_close(struct hiddenfold *device)
{
    munmap(device->registers, WINDOW_BYTES);
    device->registers = NULL;
}
#endif

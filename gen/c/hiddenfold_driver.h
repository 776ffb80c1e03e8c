/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver of the Hiddenfold accelerator for C99, with or without an operating system. It allocates
 * nothing and calls nothing but memcpy and memset. Functions return 0, a code of the hardware
 * (HIDDENFOLD_ERROR_...) or a negative HIDDENFOLD_FAIL_...; hiddenfold_message() explains them.
 *
 *     struct hiddenfold device;
 *     struct hiddenfold_program program;
 *     hiddenfold_open(&device, registers);
 *     hiddenfold_parse(&program, file, file_bytes);            the .hfp file
 *     hiddenfold_place(&program, base, bytes, images, &place); addresses as the accelerator sees them
 *     memcpy(memory + (place.program - base), program.memory, program.memory_bytes);
 *     hiddenfold_pack(&program, rgb, images, memory + (place.image - base));
 *     hiddenfold_start(&device, &program, &place, images, 0);
 *     hiddenfold_wait(&device, polls);
 *     hiddenfold_unpack(&program, memory + (place.output - base), images, logits);
 *
 * Memory must not be cached, or be cleaned before the start and invalidated after the wait. One
 * thread at a time may use a device.
 */
#ifndef HIDDENFOLD_DRIVER_H
#define HIDDENFOLD_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "hiddenfold.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HIDDENFOLD_FAIL_ID = -1,      /* no accelerator at this address */
    HIDDENFOLD_FAIL_VERSION = -2, /* another major version */
    HIDDENFOLD_FAIL_TARGET = -3,  /* the program was compiled for another target */
    HIDDENFOLD_FAIL_FILE = -4,    /* no .hfp file, or a damaged one */
    HIDDENFOLD_FAIL_ROOM = -5,    /* not enough memory for so many images */
    HIDDENFOLD_FAIL_IMAGES = -6,  /* not a multiple of the batch, or more than 65535 */
    HIDDENFOLD_FAIL_BUSY = -7,    /* a run is under way */
    HIDDENFOLD_FAIL_TIMEOUT = -8, /* the run has not ended; hiddenfold_abort() ends it */
    HIDDENFOLD_FAIL_STUCK = -9,   /* it does not stop either: reset the accelerator */
    HIDDENFOLD_FAIL_SYSTEM = -10  /* a call of the operating system failed, see errno */
};

struct hiddenfold {
    /* The registers, or with HIDDENFOLD_CUSTOM_ACCESS what the functions below get. */
    void *registers;
};

#ifdef HIDDENFOLD_CUSTOM_ACCESS
/* Yours: read and write the 32-bit register at a byte offset. */
uint32_t hiddenfold_read(const struct hiddenfold *device, uint32_t offset);
void hiddenfold_write(const struct hiddenfold *device, uint32_t offset, uint32_t value);
#endif

struct hiddenfold_program {
    const uint8_t *memory; /* inside the file */
    uint32_t memory_bytes;
    uint32_t target_id;
    uint32_t height, width, pitch; /* of an image; pitch in bytes from row to row in memory */
    uint32_t batch;
    uint32_t rows;         /* output channels of a block */
    uint32_t classes;      /* logits of an image that mean something */
    uint32_t logits;       /* logits of an image in the output */
    uint32_t output_bytes; /* per image */
    uint32_t scratch_bytes;
    uint32_t predicted_cycles; /* per image */
};

struct hiddenfold_place {
    uint32_t program, image, output, scratch; /* addresses */
    uint32_t image_bytes, output_bytes;       /* of all images */
};

/* Take the registers of an accelerator; checks what is there. */
int hiddenfold_open(struct hiddenfold *device, void *registers);

/* Read the header of a program file without a trace; checks length, CRC-32 and target. */
int hiddenfold_parse(struct hiddenfold_program *program, const void *file, size_t bytes);

/* Divide memory of some bytes at an address, which is a multiple of 64. */
int hiddenfold_place(const struct hiddenfold_program *program, uint32_t base, uint32_t bytes,
                     uint32_t images, struct hiddenfold_place *place);

/* Put images, uint8 [images][height][width][3], where the accelerator reads them. */
void hiddenfold_pack(const struct hiddenfold_program *program, const uint8_t *rgb, uint32_t images,
                     uint8_t *memory);

/* Start a run; watchdog in clock cycles, 0 for 16 times the prediction and a million more. */
int hiddenfold_start(const struct hiddenfold *device, const struct hiddenfold_program *program,
                     const struct hiddenfold_place *place, uint32_t images, uint32_t watchdog);

/* Look at STATUS up to so many times until the run has ended; return how it ended. */
int hiddenfold_wait(const struct hiddenfold *device, uint32_t polls);

/* End a run; looks at STATUS up to so many times. */
int hiddenfold_abort(const struct hiddenfold *device, uint32_t polls);

/* Take logits, int32 [images][classes], from the output. */
void hiddenfold_unpack(const struct hiddenfold_program *program, const uint8_t *memory,
                       uint32_t images, int32_t *logits);

/* Label with the largest logit; ties go to the lower label. */
uint32_t hiddenfold_best(const struct hiddenfold_program *program, const int32_t *logits);

/* A register of 32 bits, or of 64 bits with its low word first. */
uint32_t hiddenfold_register(const struct hiddenfold *device, uint32_t offset);
uint64_t hiddenfold_counter(const struct hiddenfold *device, uint32_t offset);

/* What a result means, and what to do about it. */
const char *hiddenfold_message(int result);

#ifdef HIDDENFOLD_UIO
/* Linux: map the registers of /dev/uioN, and unmap them. */
int hiddenfold_uio_open(struct hiddenfold *device, const char *path);
void hiddenfold_uio_close(struct hiddenfold *device);
#endif

#ifdef __cplusplus
}
#endif

#endif

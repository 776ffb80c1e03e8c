// SPDX-License-Identifier: Apache-2.0
// Runs the board's design with its UART on standard input and output. Arguments: steps of time per
// bit, then +NAME=VALUE for the Verilog. Ends with its input.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>

#include "Vbench.h"
#include "verilated.h"

// Bits of a frame: start, 8 data bits from bit 0 on, stop.
static const int FRAME = 10;
// Steps between two looks at the input, and those before the first one: the SDRAM's start takes most
// of them, and before it is over nobody listens.
static const int LOOK = 1024, START = 100 * LOOK;

int main(int argc, char **argv) {
    const int bit = argc > 1 ? atoi(argv[1]) : 0;
    if (bit < 4) return 2;
    Verilated::commandArgs(argc, argv);
    Vbench bench;
    std::deque<unsigned char> waiting;
    int sending = 0, receiving = -1;
    unsigned frame = 0, answer = 0;
    bool last = true;
    bench.rx = 1;
    for (unsigned long step = 0;; step++) {
        if (step >= START && step % LOOK == 0) {
            unsigned char data[256];
            pollfd input = {0, POLLIN, 0};
            if (poll(&input, 1, 0) > 0) {
                const ssize_t count = read(0, data, sizeof data);
                if (count <= 0) return 0;
                waiting.insert(waiting.end(), data, data + count);
            }
        }
        if (sending == 0 && !waiting.empty()) {
            frame = 1u << 9 | waiting.front() << 1;
            waiting.pop_front();
            sending = FRAME * bit;
        }
        bench.rx = sending ? frame >> (FRAME - 1 - (sending - 1) / bit) & 1 : 1;
        if (sending) sending--;
        bench.clk25 = !bench.clk25;
        bench.eval();
        if (Verilated::gotFinish()) return 1;
        // Bits are taken in their middle, counted from the edge of the start bit.
        if (receiving < 0 && last && !bench.tx) receiving = 0, answer = 0;
        // The pin is low before the first clock, which is no start bit.
        if (receiving == bit / 2 && bench.tx) receiving = -1;
        if (receiving >= 0) {
            if (receiving % bit == bit / 2) answer |= unsigned(bench.tx) << receiving / bit;
            if (++receiving == FRAME * bit - bit / 4) {
                receiving = -1;
                const unsigned char byte = answer >> 1;
                if (write(1, &byte, 1) != 1) return 0;
            }
        }
        last = bench.tx;
    }
}

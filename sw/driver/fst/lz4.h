// SPDX-License-Identifier: Apache-2.0
// Stands in for liblz4 in Verilator's FST writer, so that nothing has to be installed for waveforms.
// It makes legal LZ4 blocks that hold the data as they are; the writer then keeps the data themselves
// wherever a block is not smaller.
#pragma once

#include <cstring>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

inline int LZ4_compress_default(const char* from, char* to, int size, int) {
    char* at = to;
    *at++ = static_cast<char>(size < 15 ? size << 4 : 0xF0);
    if (size >= 15) {
        int rest = size - 15;
        for (; rest >= 255; rest -= 255) *at++ = static_cast<char>(255);
        *at++ = static_cast<char>(rest);
    }
    std::memcpy(at, from, static_cast<size_t>(size));
    return static_cast<int>(at - to) + size;
}

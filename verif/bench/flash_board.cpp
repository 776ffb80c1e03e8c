// SPDX-License-Identifier: Apache-2.0
// The board without DRAM: one verilated `hiddenfold_flash` top, a serial flash on its pins and the
// other end of its serial line. Python (flash_board.py) loads it as a shared library.
//
// The flash understands the commands that W25Q and IS25LP parts have in common: 03, 0B, 6B (reads),
// 9F, 05, 06, 04, 02 (page program), 20 (erase 4 KiB). It takes bits at the rising edge of its clock
// and changes its own at the falling edge, and says what no such part would accept.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "Vhiddenfold.h"
#include "verilated.h"

namespace {

constexpr uint32_t kFlashBytes = 16u << 20, kPage = 256, kSector = 4096;
constexpr double kDeselectNs = 50;     // between two commands
constexpr double kSingleReadMhz = 50;  // of command 03
constexpr double kReadMhz = 104;       // of the others

class Flash {
  public:
    explicit Flash(double clock_mhz) : memory_(kFlashBytes, 0xFF), period_ns_(1000 / clock_mhz) {}

    uint8_t* memory() { return memory_.data(); }
    const std::string& error() const { return error_; }
    void set_busy_cycles(uint32_t page, uint32_t sector) { page_ = page; sector_ = sector; }

    // After a rising edge of the system clock; returns the levels of the pins.
    uint32_t step(uint64_t cycle, bool selected, bool clock, uint32_t out, uint32_t enable) {
        cycle_ = cycle;
        if (selected && !selected_) begin();
        if (!selected && selected_) end();
        if (selected && clock && !clock_) rise(out, enable);
        if (selected && !clock && clock_) fall();
        selected_ = selected;
        clock_ = clock;
        const uint32_t mine = driving_ ? (width_ == 4 ? 0xF : 0x2) : 0;
        if (mine & enable) fail("both sides drive a pin");
        // Pins that nobody drives are pulled up.
        return (out & enable) | (level_ & mine) | (0xF & ~(enable | mine));
    }

  private:
    bool busy() const { return cycle_ < ready_; }

    void begin() {
        if ((cycle_ - deselected_) * period_ns_ < kDeselectNs) fail("deselected for too short");
        bits_ = 0;
        shift_ = 0;
        command_ = -1;
        driving_ = false;
        data_.clear();
    }

    void end() {
        deselected_ = cycle_;
        driving_ = false;
        if (command_ == 0x06) enabled_ = true;
        if (command_ == 0x04) enabled_ = false;
        if (command_ == 0x02 && writable() && bits_ >= 40 && bits_ % 8 == 0) {
            for (size_t i = 0; i < data_.size(); ++i)
                memory_[(address_ & ~(kPage - 1)) | ((address_ + i) & (kPage - 1))] &= data_[i];
            ready_ = cycle_ + page_;
            enabled_ = false;
        }
        if (command_ == 0x20 && writable() && bits_ == 32) {
            std::memset(&memory_[address_ & ~(kSector - 1)], 0xFF, kSector);
            ready_ = cycle_ + sector_;
            enabled_ = false;
        }
    }

    bool writable() {
        if (!enabled_) fail("program or erase without write enable");
        return enabled_;
    }

    void rise(uint32_t out, uint32_t enable) {
        const double mhz = 1000 / ((cycle_ - last_rise_) * period_ns_);
        if (bits_ > 0 && mhz > (command_ == 0x03 ? kSingleReadMhz : kReadMhz))
            fail("clock too fast");
        last_rise_ = cycle_;
        ++bits_;
        if (driving_) return;
        if (bits_ <= 32 && !(enable & 1)) fail("IO0 is not driven in a command");
        if (bits_ <= 32 && (out & enable & 0xC) != 0xC) fail("WP or HOLD is low in a command");
        shift_ = shift_ << 1 | (out & 1);
        if (bits_ == 8) {
            command_ = shift_ & 0xFF;
            if (busy() && command_ != 0x05) fail("command while busy");
            if (command_ == 0x05 || command_ == 0x9F) answer(1);
            else if (std::strchr("\x03\x0B\x6B\x06\x04\x02\x20", command_) == nullptr || !command_)
                fail("unknown command " + std::to_string(command_));
        }
        if (bits_ == 32) {
            address_ = shift_ & (kFlashBytes - 1);
            if (command_ == 0x03) answer(1);
        }
        if (bits_ == 40 && (command_ == 0x0B || command_ == 0x6B))
            answer(command_ == 0x6B ? 4 : 1);
        if (command_ == 0x02 && bits_ > 32 && bits_ % 8 == 0) {
            data_.push_back(shift_ & 0xFF);
            if (data_.size() > kPage) fail("more than a page in a program command");
        }
    }

    // From the next falling edge on.
    void answer(int width) {
        driving_ = true;
        width_ = width;
        left_ = 0;
        count_ = 0;
    }

    void fall() {
        if (!driving_) return;
        if (left_ == 0) {
            left_ = 8;
            static const uint8_t identity[] = {0xEF, 0x40, 0x18};
            if (command_ == 0x05) byte_ = busy() | enabled_ << 1;
            else if (command_ == 0x9F) byte_ = identity[count_++ % 3];
            else byte_ = memory_[address_++ & (kFlashBytes - 1)];
        }
        left_ -= width_;
        level_ = width_ == 4 ? byte_ >> left_ & 0xF : (byte_ >> left_ & 1) << 1;
    }

    void fail(const std::string& text) {
        if (error_.empty()) error_ = "flash: " + text + " (cycle " + std::to_string(cycle_) + ")";
    }

    std::vector<uint8_t> memory_, data_;
    double period_ns_;
    uint64_t cycle_ = 0, deselected_ = 0, last_rise_ = 0, ready_ = 0;
    uint32_t page_ = 1000, sector_ = 5000;
    bool selected_ = false, clock_ = false, driving_ = false, enabled_ = false;
    int width_ = 1, left_ = 0, command_ = -1;
    uint32_t bits_ = 0, count_ = 0, address_ = 0, level_ = 0;
    uint64_t shift_ = 0;
    uint8_t byte_ = 0;
    std::string error_;
};

class Board {
  public:
    Board(uint32_t bit_cycles, double clock_mhz) : bit_cycles_(bit_cycles), flash_(clock_mhz) {
        context_ = std::make_unique<VerilatedContext>();
        top_ = std::make_unique<Vhiddenfold>(context_.get());
        top_->uart_rx = 1;
        top_->flash_io_i = 0xF;
        top_->aresetn = 0;
        advance(100);
        top_->aresetn = 1;
    }
    ~Board() { top_->final(); }

    Flash& flash() { return flash_; }
    uint64_t cycles() const { return cycle_; }
    const char* error() const { return flash_.error().empty() ? nullptr : flash_.error().c_str(); }

    void send(const uint8_t* data, size_t size) { to_board_.insert(to_board_.end(), data, data + size); }
    size_t receive(uint8_t* data, size_t size) {
        size_t n = 0;
        for (; n < size && !to_host_.empty(); ++n) {
            data[n] = to_host_.front();
            to_host_.pop_front();
        }
        return n;
    }

    void advance(uint64_t cycles) {
        for (uint64_t n = 0; n < cycles; ++n) {
            top_->aclk = 0;
            top_->eval();
            drive_line();
            top_->aclk = 1;
            top_->eval();
            ++cycle_;
            context_->timeInc(1);
            top_->flash_io_i = flash_.step(cycle_, !top_->flash_cs_n, top_->flash_sck,
                                           top_->flash_io_o, top_->flash_io_oe);
            watch_line();
        }
    }

  private:
    void drive_line() {
        if (send_left_ == 0) {
            if (to_board_.empty()) return;
            frame_ = 0x200u | to_board_.front() << 1;
            to_board_.pop_front();
            send_left_ = 10 * bit_cycles_;
        }
        top_->uart_rx = frame_ >> (9 - (send_left_ - 1) / bit_cycles_) & 1;
        --send_left_;
    }

    void watch_line() {
        if (receive_left_ == 0) {
            if (!top_->uart_tx) receive_left_ = 10 * bit_cycles_ - 1, byte_ = 0;
            return;
        }
        --receive_left_;
        const uint32_t bit = 9 - receive_left_ / bit_cycles_;
        if (receive_left_ % bit_cycles_ != bit_cycles_ / 2) return;
        if (bit >= 1 && bit <= 8) byte_ |= top_->uart_tx << (bit - 1);
        // The next frame may begin right after this one.
        if (bit == 9) to_host_.push_back(byte_), receive_left_ = 0;
    }

    uint32_t bit_cycles_, send_left_ = 0, receive_left_ = 0, frame_ = 0;
    uint8_t byte_ = 0;
    uint64_t cycle_ = 0;
    std::deque<uint8_t> to_board_, to_host_;
    Flash flash_;
    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vhiddenfold> top_;
};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API Board* fb_create(uint32_t bit_cycles, double clock_mhz) { return new Board(bit_cycles, clock_mhz); }
API void fb_destroy(Board* b) { delete b; }
API uint8_t* fb_flash(Board* b) { return b->flash().memory(); }
API void fb_set_busy_cycles(Board* b, uint32_t page, uint32_t sector) {
    b->flash().set_busy_cycles(page, sector);
}
API void fb_send(Board* b, const uint8_t* data, size_t size) { b->send(data, size); }
API size_t fb_receive(Board* b, uint8_t* data, size_t size) { return b->receive(data, size); }
API void fb_advance(Board* b, uint64_t cycles) { b->advance(cycles); }
API uint64_t fb_cycles(Board* b) { return b->cycles(); }
API const char* fb_error(Board* b) { return b->error(); }

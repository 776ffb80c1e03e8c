// SPDX-License-Identifier: Apache-2.0
// The embedded device: one verilated `hiddenfold` top, a flat memory behind its AXI4 master port and
// register accesses through its AXI4-Lite port. Python (rtl.py) loads it as a shared library and is
// never called per clock cycle.
//
// One clock cycle is: falling edge with the new inputs, sample the outputs, rising edge, new inputs.
// So all handshakes are seen with settled values, also where an output depends on an input of the
// same cycle.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "Vhiddenfold.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

namespace {

constexpr uint32_t kBusBytes = HF_BUS_BITS / 8;
constexpr uint32_t kOkay = 0, kSlvErr = 2, kDecErr = 3, kNoAnswer = 4;
constexpr size_t kOutstanding = 16;

struct Burst {
    uint64_t address;     // of the next beat
    uint32_t beats;       // still to come
    uint32_t id;
    uint32_t response;    // worst response so far (write), or kNoAnswer
    uint64_t ready;       // first cycle in which it may be answered
};

// A burst read from the watched addresses, and registers a few cycles later.
struct Event {
    uint64_t address, cycle;
    std::vector<uint32_t> values;
};

struct Fault {
    uint64_t begin, end;  // byte addresses, end not included
    uint32_t response;    // kSlvErr, kDecErr or kNoAnswer
    bool reads, writes;
};

struct BeatFault {
    uint64_t number;      // of the beat, counted from when the fault was added
    uint32_t response;
    uint64_t flip;        // bits of each 64-bit word of a read beat to invert
    bool read;
};

// Cycles before the first address and the first data of a register access, and those that each
// answer is kept waiting.
struct Delays {
    uint32_t address = 0, data = 0, answer = 0;
};

class Device {
  public:
    Device(uint64_t base, uint64_t size) : base_(base), size_(size) {
        void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        memory_ = p == MAP_FAILED ? nullptr : static_cast<uint8_t*>(p);
        context_ = std::make_unique<VerilatedContext>();
#if VM_TRACE
        context_->traceEverOn(true);
#endif
        top_ = std::make_unique<Vhiddenfold>(context_.get());
        top_->aclk = 0;
        top_->aresetn = 0;
        drive_idle();
        top_->eval();
    }

    ~Device() {
        stop_trace();
        top_->final();
        if (memory_) munmap(memory_, size_);
    }

    bool good() const { return memory_ != nullptr; }
    uint8_t* memory() { return memory_; }
    uint64_t cycles() const { return cycle_; }
    bool irq() const { return top_->irq; }
    const char* violation() const { return violation_.empty() ? nullptr : violation_.c_str(); }

    void configure(uint32_t latency, uint32_t interval, uint32_t stall, uint64_t seed) {
        latency_ = latency;
        interval_ = interval;
        stall_ = stall;
        random_ = seed * 0x9E3779B97F4A7C15u | 1;
    }

    // Remember each burst that is read from an address in [begin, end), and read the registers at
    // `offsets` right behind it. The model sees register accesses like those of a host.
    void watch(uint64_t begin, uint64_t end, const uint32_t* offsets, uint32_t count) {
        finish_sample();
        watch_begin_ = begin;
        watch_end_ = end;
        offsets_.assign(offsets, offsets + count);
        events_.clear();
        sampled_ = 0;
    }

    const std::vector<Event>& events() const { return events_; }

    void add_fault(const Fault& fault) { faults_.push_back(fault); }
    void add_beat_fault(const BeatFault& fault) {
        beat_faults_.push_back(fault);
        beats_[0] = beats_[1] = fault_address_ = 0;
    }
    uint64_t fault_address() const { return fault_address_; }
    // Whether a burst has begun within a beat since the last call: AXI4 allows it, a program that
    // keeps to its alignments never causes it.
    bool began_within_beat() { return std::exchange(within_beat_, false); }
    void clear_faults() {
        faults_.clear();
        beat_faults_.clear();
        hold_begin_ = hold_end_ = 0;
        for (std::deque<Burst>* bursts : {&writes_, &responses_})
            for (Burst& burst : *bursts)
                if (burst.response == kNoAnswer) burst.response = kOkay;
    }

    // Cycles from the last beat of a write burst to its answer.
    void set_write_latency(uint32_t cycles) { write_latency_ = cycles; }

    // The memory takes and gives nothing in cycles begin..end-1.
    void hold(uint64_t begin, uint64_t end) {
        hold_begin_ = begin;
        hold_end_ = end;
    }

    bool select_mutant(uint32_t number) {
#ifdef HF_MUTANTS
        top_->mutant = number;
        return true;
#else
        return number == 0;
#endif
    }

    bool write_coverage(const char* path) {
#if VM_COVERAGE
        context_->coveragep()->write(path);
        return true;
#else
        (void)path;
        return false;
#endif
    }

    void reset(uint32_t cycles) {
        reads_.clear();
        writes_.clear();
        responses_.clear();
        sample_state_ = kIdle;
        watch(0, 0, nullptr, 0);
        drive_idle();
        top_->aresetn = 0;
        for (uint32_t n = 0; n < cycles; ++n) tick();
        top_->aresetn = 1;
        violation_.clear();
    }

    // `count` accesses to registers, none waiting for the answer to the one before. Returns the worst
    // AXI response, or kNoAnswer after `limit` cycles.
    uint32_t access(bool write, const uint32_t* addresses, uint32_t* values, uint32_t count,
                    uint32_t strobe, const Delays& delays, uint32_t limit) {
        finish_sample();
        uint32_t asked = 0, sent = write ? 0 : count, answered = 0, result = kOkay;
        uint32_t waited = 0, held[2] = {0, 0};
        for (uint32_t n = 0; n < limit && answered < count; ++n) {
            const bool ask = asked < count && n >= delays.address;
            const bool send = sent < count && n >= delays.data;
            const bool take = waited >= delays.answer;
            const uint32_t address = addresses[std::min(asked, count - 1)];
            if (write) {
                top_->s_axi_awaddr = address;
                top_->s_axi_awvalid = ask;
                top_->s_axi_wdata = values[std::min(sent, count - 1)];
                top_->s_axi_wstrb = strobe;
                top_->s_axi_wvalid = send;
                top_->s_axi_bready = take;
            } else {
                top_->s_axi_araddr = address;
                top_->s_axi_arvalid = ask;
                top_->s_axi_rready = take;
            }
            falling();
            const bool asking = ask && (write ? top_->s_axi_awready : top_->s_axi_arready);
            const bool sending = send && top_->s_axi_wready;
            const bool valid = write ? top_->s_axi_bvalid : top_->s_axi_rvalid;
            const uint32_t now[2] = {write ? top_->s_axi_bresp : top_->s_axi_rresp,
                                     write ? 0 : top_->s_axi_rdata};
            if (waited && (!valid || !std::equal(now, now + 2, held)))
                violate("the answer of a register changed before its READY");
            rising();
            asked += asking;
            sent += sending;
            std::copy(now, now + 2, held);
            waited = valid && !take ? waited + 1 : 0;
            if (valid && take) {
                result = std::max(result, now[0]);
                if (!write) values[answered] = now[1];
                ++answered;
            }
        }
        top_->s_axi_awvalid = top_->s_axi_wvalid = top_->s_axi_arvalid = 0;
        top_->s_axi_bready = top_->s_axi_rready = 0;
        return answered == count ? result : kNoAnswer;
    }

    // Clocks the model until the interrupt line is high (if `until_irq`), an AXI rule is violated
    // or `limit` cycles have passed; returns the cycles passed.
    uint64_t advance(uint64_t limit, bool until_irq) {
        uint64_t n = 0;
        for (; n < limit && violation_.empty(); ++n) {
            if (until_irq && top_->irq) break;
            tick();
        }
        return n;
    }

    bool start_trace(const char* path) {
#if VM_TRACE
        stop_trace();
        trace_ = std::make_unique<VerilatedFstC>();
        top_->trace(trace_.get(), 99);
        trace_->open(path);
        return trace_->isOpen();
#else
        (void)path;
        return false;
#endif
    }

    void stop_trace() {
#if VM_TRACE
        if (trace_) trace_->close();
        trace_.reset();
#endif
    }

  private:
    void tick() {
        falling();
        const bool asked = top_->s_axi_arready, answered = top_->s_axi_rvalid;
        const uint32_t value = top_->s_axi_rdata;
        rising();
        sample_registers(asked, answered, value);
    }

    void finish_sample() {
        while (sample_state_ != kIdle || sampled_ != events_.size()) tick();
    }

    // Reads the registers of the oldest event that lacks some, one after the other.
    void sample_registers(bool asked, bool answered, uint32_t value) {
        if (sample_state_ == kAsking && asked) {
            top_->s_axi_arvalid = 0;
            sample_state_ = kWaiting;
        } else if (sample_state_ == kWaiting && answered) {
            top_->s_axi_rready = 0;
            events_[sampled_].values.push_back(value);
            sample_state_ = kIdle;
        }
        if (sample_state_ != kIdle || sampled_ == events_.size()) return;
        const size_t done = events_[sampled_].values.size();
        if (done == offsets_.size()) {
            ++sampled_;
            return;
        }
        top_->s_axi_araddr = offsets_[done];
        top_->s_axi_arvalid = top_->s_axi_rready = 1;
        sample_state_ = kAsking;
    }

    void falling() {
        top_->aclk = 0;
        top_->eval();
        dump();
    }

    void rising() {
        Sample s = sample();
        top_->aclk = 1;
        top_->eval();
        context_->timeInc(1);
        dump();
        ++cycle_;
        if (top_->aresetn) serve(s);
    }

    void dump() {
#if VM_TRACE
        if (trace_) trace_->dump(2 * cycle_ + (top_->aclk ? 1 : 0));
#endif
    }

    // What the memory sees at the rising edge.
    struct Sample {
        bool ar, aw, w, r, b, wlast, arvalid, awvalid, wvalid;
        uint64_t araddr, awaddr;
        uint32_t arlen, awlen, arid, awid, arsize, awsize, arburst, awburst, wstrb;
        uint8_t wdata[kBusBytes];
    };

    Sample sample() const {
        Sample s{};
        s.arvalid = top_->m_axi_arvalid;
        s.ar = s.arvalid && top_->m_axi_arready;
        if (s.arvalid) {
            s.araddr = top_->m_axi_araddr;
            s.arlen = top_->m_axi_arlen;
            s.arid = top_->m_axi_arid;
            s.arsize = top_->m_axi_arsize;
            s.arburst = top_->m_axi_arburst;
        }
        s.awvalid = top_->m_axi_awvalid;
        s.aw = s.awvalid && top_->m_axi_awready;
        if (s.awvalid) {
            s.awaddr = top_->m_axi_awaddr;
            s.awlen = top_->m_axi_awlen;
            s.awid = top_->m_axi_awid;
            s.awsize = top_->m_axi_awsize;
            s.awburst = top_->m_axi_awburst;
        }
        s.wvalid = top_->m_axi_wvalid;
        s.w = s.wvalid && top_->m_axi_wready;
        if (s.wvalid) {
            s.wlast = top_->m_axi_wlast;
            s.wstrb = top_->m_axi_wstrb;
            std::memcpy(s.wdata, static_cast<const void*>(&top_->m_axi_wdata), kBusBytes);
        }
        s.r = top_->m_axi_rvalid && top_->m_axi_rready;
        s.b = top_->m_axi_bvalid && top_->m_axi_bready;
        return s;
    }

    void serve(const Sample& s) {
        check_stable(s);
        if (s.ar) {
            check_burst("read", s.araddr, s.arlen, s.arsize, s.arburst);
            reads_.push_back({s.araddr, s.arlen + 1, s.arid, kOkay, cycle_ + latency_});
            if (s.araddr >= watch_begin_ && s.araddr < watch_end_)
                events_.push_back({s.araddr, cycle_, {}});
        }
        if (s.aw) {
            check_burst("write", s.awaddr, s.awlen, s.awsize, s.awburst);
            writes_.push_back({s.awaddr, s.awlen + 1, s.awid, kOkay, 0});
        }
        if (s.w) write_beat(s);
        if (s.r) {
            Burst& burst = reads_.front();
            burst.address = (burst.address & ~uint64_t(kBusBytes - 1)) + kBusBytes;
            if (--burst.beats == 0) reads_.pop_front();
        }
        if (s.b) responses_.pop_front();
        // Reads and writes share the memory's pins; the transfer was in the cycle before.
        if (s.r || s.w) free_ = cycle_ - 1 + interval_;
        // A VALID that is up stays up, with the same payload, until its READY.
        drive_read(top_->m_axi_rvalid && !s.r);
        drive_response(top_->m_axi_bvalid && !s.b);
        top_->m_axi_arready = reads_.size() < kOutstanding && !stall();
        top_->m_axi_awready = writes_.size() < kOutstanding && !stall();
        top_->m_axi_wready = !writes_.empty() && cycle_ >= free_ && !stall();
        previous_ = s;
    }

    void write_beat(const Sample& s) {
        Burst& burst = writes_.front();
        const uint64_t beat = burst.address & ~uint64_t(kBusBytes - 1);
        const BeatFault* fault = beat_fault(false, beat);
        const uint32_t response = fault ? fault->response : response_for(beat, false);
        if (response > burst.response) burst.response = response;
        if (response == kOkay) {
            uint8_t* to = memory_ + (beat - base_);
            for (uint32_t i = 0; i < kBusBytes; ++i)
                if (s.wstrb >> i & 1) to[i] = s.wdata[i];
        }
        ++beats_[0];
        burst.address = beat + kBusBytes;
        const bool last = --burst.beats == 0;
        if (last != s.wlast) violate("WLAST is not at the end of the write burst");
        if (last) {
            burst.ready = cycle_ + write_latency_;
            responses_.push_back(burst);
            writes_.pop_front();
        }
    }

    void drive_read(bool hold) {
        if (hold) return;
        top_->m_axi_rvalid = 0;
        if (reads_.empty() || reads_.front().ready > cycle_ || cycle_ < free_ || stall()) return;
        const Burst& burst = reads_.front();
        const uint64_t beat = burst.address & ~uint64_t(kBusBytes - 1);
        const BeatFault* fault = beat_fault(true, beat);
        uint32_t response = response_for(beat, true);
        if (fault && fault->response != kOkay) response = fault->response;
        if (response == kNoAnswer) return;
        ++beats_[1];
        if (response == kOkay) {
            uint64_t words[kBusBytes / 8];
            std::memcpy(words, memory_ + (beat - base_), kBusBytes);
            for (uint64_t& word : words) word ^= fault ? fault->flip : 0;
            std::memcpy(static_cast<void*>(&top_->m_axi_rdata), words, kBusBytes);
        } else {
            std::memset(static_cast<void*>(&top_->m_axi_rdata), 0xEE, kBusBytes);
        }
        top_->m_axi_rvalid = 1;
        top_->m_axi_rresp = response;
        top_->m_axi_rid = burst.id;
        top_->m_axi_rlast = burst.beats == 1;
    }

    void drive_response(bool hold) {
        if (hold) return;
        top_->m_axi_bvalid = 0;
        if (responses_.empty() || responses_.front().ready > cycle_ || stall()) return;
        if (responses_.front().response == kNoAnswer) return;
        top_->m_axi_bvalid = 1;
        top_->m_axi_bresp = responses_.front().response;
        top_->m_axi_bid = responses_.front().id;
    }

    uint32_t response_for(uint64_t beat, bool read) const {
        if (beat < base_ || beat + kBusBytes > base_ + size_) return kDecErr;
        for (const Fault& fault : faults_)
            if ((read ? fault.reads : fault.writes) && beat < fault.end &&
                beat + kBusBytes > fault.begin)
                return fault.response;
        return kOkay;
    }

    // The fault of the beat that comes next.
    const BeatFault* beat_fault(bool read, uint64_t address) {
        for (const BeatFault& fault : beat_faults_)
            if (fault.read == read && fault.number == beats_[read]) {
                fault_address_ = address;
                return &fault;
            }
        return nullptr;
    }

    void check_burst(const char* what, uint64_t address, uint32_t length, uint32_t size,
                     uint32_t burst) {
        if (burst != 1) violate(std::string("the ") + what + " burst is not of type INCR");
        if (1u << size != kBusBytes)
            violate(std::string("the ") + what + " burst does not use the whole bus");
        const uint64_t first = address & ~uint64_t(kBusBytes - 1);
        within_beat_ |= address != first;
        if (first >> 12 != (first + uint64_t(length) * kBusBytes) >> 12)
            violate(std::string("the ") + what + " burst crosses a 4 KiB boundary");
    }

    void check_stable(const Sample& s) {
        const Sample& p = previous_;
        if (p.arvalid && !p.ar &&
            (!s.arvalid || s.araddr != p.araddr || s.arlen != p.arlen || s.arid != p.arid))
            violate("the read address changed before ARREADY");
        if (p.awvalid && !p.aw &&
            (!s.awvalid || s.awaddr != p.awaddr || s.awlen != p.awlen || s.awid != p.awid))
            violate("the write address changed before AWREADY");
        if (p.wvalid && !p.w &&
            (!s.wvalid || s.wlast != p.wlast || s.wstrb != p.wstrb ||
             std::memcmp(s.wdata, p.wdata, kBusBytes) != 0))
            violate("the write data changed before WREADY");
    }

    void violate(const std::string& text) {
        if (violation_.empty()) violation_ = text + " (cycle " + std::to_string(cycle_) + ")";
    }

    // xorshift64*: true with probability stall_ / 65536, and while the memory is held.
    bool stall() {
        if (cycle_ >= hold_begin_ && cycle_ < hold_end_) return true;
        if (stall_ == 0) return false;
        random_ ^= random_ >> 12;
        random_ ^= random_ << 25;
        random_ ^= random_ >> 27;
        return (random_ * 0x2545F4914F6CDD1Du >> 48) < stall_;
    }

    void drive_idle() {
        top_->s_axi_awvalid = top_->s_axi_wvalid = top_->s_axi_arvalid = 0;
        top_->s_axi_bready = top_->s_axi_rready = 0;
        top_->s_axi_awprot = top_->s_axi_arprot = 0;
        top_->m_axi_arready = top_->m_axi_awready = top_->m_axi_wready = 0;
        top_->m_axi_rvalid = top_->m_axi_bvalid = 0;
        previous_ = Sample{};
    }

    uint64_t base_, size_;
    uint8_t* memory_ = nullptr;
    uint32_t latency_ = 40, write_latency_ = 4, interval_ = 1, stall_ = 0;
    uint64_t random_ = 1, cycle_ = 0;
    uint64_t free_ = 0;  // first cycle in which a beat may be transferred
    std::vector<Fault> faults_;
    uint64_t watch_begin_ = 0, watch_end_ = 0;
    std::vector<uint32_t> offsets_;
    std::vector<Event> events_;
    size_t sampled_ = 0;  // events with all their registers
    enum { kIdle, kAsking, kWaiting } sample_state_ = kIdle;
    std::vector<BeatFault> beat_faults_;
    uint64_t beats_[2] = {0, 0};  // written, read
    bool within_beat_ = false;
    uint64_t fault_address_ = 0;  // of the last faulty beat
    uint64_t hold_begin_ = 0, hold_end_ = 0;
    std::deque<Burst> reads_, writes_, responses_;
    std::string violation_;
    Sample previous_{};
    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vhiddenfold> top_;
#if VM_TRACE
    std::unique_ptr<VerilatedFstC> trace_;
#endif
};

}  // namespace

#define HF_API extern "C" __attribute__((visibility("default")))

HF_API Device* hf_create(uint64_t base, uint64_t size) {
    auto device = std::make_unique<Device>(base, size);
    return device->good() ? device.release() : nullptr;
}
HF_API void hf_destroy(Device* d) { delete d; }
HF_API uint8_t* hf_memory(Device* d) { return d->memory(); }
HF_API void hf_configure(Device* d, uint32_t latency, uint32_t interval, uint32_t stall,
                         uint64_t seed) {
    d->configure(latency, interval, stall, seed);
}
HF_API void hf_add_fault(Device* d, uint64_t begin, uint64_t end, uint32_t response, uint32_t reads,
                         uint32_t writes) {
    d->add_fault({begin, end, response, reads != 0, writes != 0});
}
HF_API void hf_watch(Device* d, uint64_t begin, uint64_t end, const uint32_t* offsets,
                     uint32_t count) {
    d->watch(begin, end, offsets, count);
}
HF_API uint64_t hf_events(Device* d) { return d->events().size(); }
// Address and cycle of an event and its registers; those that were not read are left as they are.
HF_API void hf_event(Device* d, uint64_t number, uint64_t* at, uint32_t* values) {
    const Event& event = d->events()[number];
    at[0] = event.address;
    at[1] = event.cycle;
    std::copy(event.values.begin(), event.values.end(), values);
}
HF_API void hf_add_beat_fault(Device* d, uint64_t number, uint32_t response, uint64_t flip,
                              uint32_t read) {
    d->add_beat_fault({number, response, flip, read != 0});
}
HF_API uint64_t hf_fault_address(Device* d) { return d->fault_address(); }
HF_API uint32_t hf_began_within_beat(Device* d) { return d->began_within_beat(); }
HF_API void hf_hold(Device* d, uint64_t begin, uint64_t end) { d->hold(begin, end); }
HF_API void hf_write_latency(Device* d, uint32_t cycles) { d->set_write_latency(cycles); }
HF_API uint32_t hf_select_mutant(Device* d, uint32_t number) { return d->select_mutant(number); }
HF_API uint32_t hf_write_coverage(Device* d, const char* path) { return d->write_coverage(path); }
HF_API void hf_clear_faults(Device* d) { d->clear_faults(); }
HF_API void hf_reset(Device* d, uint32_t cycles) { d->reset(cycles); }
HF_API uint32_t hf_read32(Device* d, uint32_t address, uint32_t* value, uint32_t limit) {
    return d->access(false, &address, value, 1, 0, {}, limit);
}
HF_API uint32_t hf_write32(Device* d, uint32_t address, uint32_t value, uint32_t limit) {
    return d->access(true, &address, &value, 1, 0xF, {}, limit);
}
HF_API uint32_t hf_write_strobed(Device* d, uint32_t address, uint32_t value, uint32_t strobe,
                                 uint32_t limit) {
    return d->access(true, &address, &value, 1, strobe, {}, limit);
}
HF_API uint32_t hf_access(Device* d, uint32_t write, const uint32_t* addresses, uint32_t* values,
                          uint32_t count, const uint32_t* delays, uint32_t limit) {
    return d->access(write != 0, addresses, values, count, 0xF,
                     {delays[0], delays[1], delays[2]}, limit);
}
HF_API uint64_t hf_advance(Device* d, uint64_t cycles, uint32_t until_irq) {
    return d->advance(cycles, until_irq != 0);
}
HF_API uint64_t hf_cycles(Device* d) { return d->cycles(); }
HF_API uint32_t hf_irq(Device* d) { return d->irq(); }
HF_API const char* hf_violation(Device* d) { return d->violation(); }
HF_API uint32_t hf_start_trace(Device* d, const char* path) { return d->start_trace(path); }
HF_API void hf_stop_trace(Device* d) { d->stop_trace(); }

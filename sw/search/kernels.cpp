// SPDX-License-Identifier: Apache-2.0
// What kernels.py has a step of the search do in few passes over memory; Half is bfloat16.
//
// Images are [rows, channels], channels last. Sums are made per block of rows, and of the blocks in
// their order: no result depends on the number of threads. The compiler makes vectors of the loops.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Half = uint16_t;

// Values of a block: few enough to stay in a core's cache between two passes.
constexpr long BLOCK = 1 << 15;

inline float wide(Half value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// To the nearest, ties to even; not-a-number stays so.
inline Half narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return value == value ? Half(rounded) : Half(0x7fc0);
}

struct Blocks {
    long rows, channels, height, count;
    Blocks(long rows, long channels) : rows(rows), channels(channels) {
        height = channels < BLOCK ? BLOCK / channels : 1;
        count = (rows + height - 1) / height;
    }
    long first(long block) const { return block * height; }
    long last(long block) const { return first(block) + height < rows ? first(block) + height : rows; }
};

// The bits of a number, as an integer that is as large as the number is next to others.
inline uint32_t ordered(float value, bool magnitude) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (magnitude) return bits & 0x7fffffff;
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

// Counts integers by 16 of their bits.
class Histogram {
public:
    template <typename Count>
    Histogram(long count, int threads, Count add) : numbers(1 << 16) {
#pragma omp parallel num_threads(threads)
        {
            std::vector<uint32_t> own(1 << 16);
#pragma omp for schedule(static)
            for (long i = 0; i < count; i++) add(own.data(), i);
#pragma omp critical
            for (size_t i = 0; i < own.size(); i++) numbers[i] += own[i];
        }
    }
    // Of the integer of rank `rank` from the top; `rank` becomes that among those of these bits.
    uint32_t find(long &rank) const {
        uint32_t bits = 0xffff;
        while (bits && numbers[bits] < rank) rank -= numbers[bits--];
        return bits;
    }

private:
    std::vector<long> numbers;
};

}  // namespace

extern "C" {

// y = gain * (x - mean) / deviation + shift (+ residual), not below 0 with `relu`.
// `residual` may be null; mean, variance (of the population) and 1 / deviation are results.
void hf_norm_forward(const Half *x, const Half *residual, Half *y, long rows, long channels,
                     const float *gain, const float *shift, double eps, int relu, float *mean,
                     float *variance, float *inverse, int threads) {
    const Blocks blocks(rows, channels);
    std::vector<float> moments(2 * blocks.count * channels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < blocks.count; block++) {
        float *__restrict sum = &moments[2 * block * channels], *__restrict square = sum + channels;
        const long first = blocks.first(block), last = blocks.last(block);
        for (long row = first; row < last; row++) {
            const Half *__restrict in = x + row * channels;
            for (long c = 0; c < channels; c++) sum[c] += wide(in[c]);
        }
        for (long c = 0; c < channels; c++) sum[c] /= float(last - first);
        for (long row = first; row < last; row++) {
            const Half *__restrict in = x + row * channels;
            for (long c = 0; c < channels; c++) {
                const float apart = wide(in[c]) - sum[c];
                square[c] += apart * apart;
            }
        }
    }
    std::vector<float> scale(channels), offset(channels);
    for (long c = 0; c < channels; c++) {
        double total = 0.0, squares = 0.0;
        for (long block = 0; block < blocks.count; block++)
            total += double(moments[2 * block * channels + c]) * (blocks.last(block) - blocks.first(block));
        total /= rows;
        for (long block = 0; block < blocks.count; block++) {
            const double apart = moments[2 * block * channels + c] - total;
            squares += moments[(2 * block + 1) * channels + c];
            squares += apart * apart * (blocks.last(block) - blocks.first(block));
        }
        mean[c] = float(total);
        variance[c] = float(squares / rows);
        inverse[c] = float(1.0 / std::sqrt(squares / rows + eps));
        scale[c] = inverse[c] * (gain ? gain[c] : 1.0f);
        offset[c] = (shift ? shift[c] : 0.0f) - mean[c] * scale[c];
    }
    const float *__restrict a = scale.data(), *__restrict b = offset.data();
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < blocks.count; block++) {
        for (long row = blocks.first(block); row < blocks.last(block); row++) {
            const Half *__restrict in = x + row * channels;
            const Half *__restrict added = residual ? residual + row * channels : nullptr;
            Half *__restrict out = y + row * channels;
            if (added) {
                for (long c = 0; c < channels; c++) {
                    const float value = a[c] * wide(in[c]) + b[c] + wide(added[c]);
                    out[c] = narrow(relu && value < 0.0f ? 0.0f : value);
                }
            } else {
                for (long c = 0; c < channels; c++) {
                    const float value = a[c] * wide(in[c]) + b[c];
                    out[c] = narrow(relu && value < 0.0f ? 0.0f : value);
                }
            }
        }
    }
}

// From the gradient of y those of x, of the residual (unless null), of gain and shift. `y` is needed
// with a residual only: without, its sign is found again.
void hf_norm_backward(const Half *grad, const Half *x, const Half *y, Half *grad_x,
                      Half *grad_residual, long rows, long channels, const float *gain,
                      const float *shift, int relu, const float *mean, const float *inverse,
                      float *grad_gain, float *grad_shift, int threads) {
    const Blocks blocks(rows, channels);
    std::vector<float> scale(channels), offset(channels), slope(channels), constant(channels);
    for (long c = 0; c < channels; c++) {
        scale[c] = inverse[c] * (gain ? gain[c] : 1.0f);
        offset[c] = (shift ? shift[c] : 0.0f) - mean[c] * scale[c];
    }
    const float *__restrict a = scale.data(), *__restrict b = offset.data();
    std::vector<float> sums(2 * blocks.count * channels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < blocks.count; block++) {
        float *__restrict sum = &sums[2 * block * channels], *__restrict product = sum + channels;
        for (long row = blocks.first(block); row < blocks.last(block); row++) {
            const Half *__restrict in = x + row * channels, *__restrict given = grad + row * channels;
            if (grad_residual) {
                const Half *__restrict out = y + row * channels;
                Half *__restrict behind = grad_residual + row * channels;
                for (long c = 0; c < channels; c++) {
                    // A positive number's bits are one, as a signed integer.
                    const Half bits = relu && int16_t(out[c]) <= 0 ? Half(0) : given[c];
                    behind[c] = bits;
                    sum[c] += wide(bits);
                    product[c] += wide(bits) * (wide(in[c]) - mean[c]);
                }
            } else {
                for (long c = 0; c < channels; c++) {
                    const float value = wide(in[c]);
                    const float behind = relu && a[c] * value + b[c] <= 0.0f ? 0.0f : wide(given[c]);
                    sum[c] += behind;
                    product[c] += behind * (value - mean[c]);
                }
            }
        }
    }
    for (long c = 0; c < channels; c++) {
        double sum = 0.0, product = 0.0;
        for (long block = 0; block < blocks.count; block++) {
            sum += sums[2 * block * channels + c];
            product += sums[(2 * block + 1) * channels + c];
        }
        const double steep = -double(scale[c]) * inverse[c] * inverse[c] * product / rows;
        slope[c] = float(steep);
        constant[c] = float(-scale[c] * sum / rows - steep * mean[c]);
        grad_gain[c] = float(product * inverse[c]);
        grad_shift[c] = float(sum);
    }
    const float *__restrict k = slope.data(), *__restrict d = constant.data();
    const bool again = relu && !grad_residual;
    const Half *behind = grad_residual ? grad_residual : grad;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < blocks.count; block++) {
        for (long row = blocks.first(block); row < blocks.last(block); row++) {
            const Half *__restrict in = x + row * channels, *__restrict g = behind + row * channels;
            Half *__restrict out = grad_x + row * channels;
            if (again) {
                for (long c = 0; c < channels; c++) {
                    const float value = wide(in[c]);
                    const float given = a[c] * value + b[c] <= 0.0f ? 0.0f : wide(g[c]);
                    out[c] = narrow(a[c] * given + k[c] * value + d[c]);
                }
            } else {
                for (long c = 0; c < channels; c++)
                    out[c] = narrow(a[c] * wide(g[c]) + k[c] * wide(in[c]) + d[c]);
            }
        }
    }
}

// The score (with `magnitude` its absolute value) of rank `rank` from the top.
float hf_threshold(const float *scores, long count, long rank, int magnitude, int threads) {
    const Histogram upper(count, threads, [=](uint32_t *numbers, long i) {
        numbers[ordered(scores[i], magnitude) >> 16]++;
    });
    const uint32_t high = upper.find(rank);
    const Histogram lower(count, threads, [=](uint32_t *numbers, long i) {
        const uint32_t bits = ordered(scores[i], magnitude);
        if (bits >> 16 == high) numbers[bits & 0xffff]++;
    });
    uint32_t bits = high << 16 | lower.find(rank);
    if (!magnitude) bits = bits >> 31 ? bits & 0x7fffffff : ~bits;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// `weights` of which the score (with `magnitude` its absolute value) is at least `threshold`, else
// 0; returns how many those are.
long hf_select(const float *scores, const Half *weights, Half *out, long count, float threshold,
               int magnitude, int threads) {
    const uint32_t used = magnitude ? 0x7fffffff : 0xffffffff;
    long kept = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : kept)
    for (long block = 0; block < (count + BLOCK - 1) / BLOCK; block++) {
        const long last = (block + 1) * BLOCK < count ? (block + 1) * BLOCK : count;
        int found = 0;
        for (long i = block * BLOCK; i < last; i++) {
            uint32_t bits;
            std::memcpy(&bits, scores + i, sizeof bits);
            bits &= used;
            float value;
            std::memcpy(&value, &bits, sizeof value);
            out[i] = value >= threshold ? weights[i] : Half(0);
            found += value >= threshold;
        }
        kept += found;
    }
    return kept;
}

// Gradient of the scores from that of the weights they select; `scores` are null unless their
// magnitude selects.
void hf_score_gradient(const Half *grad, const float *weights, const float *scores, float *out,
                       long count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long block = 0; block < (count + BLOCK - 1) / BLOCK; block++) {
        const long last = (block + 1) * BLOCK < count ? (block + 1) * BLOCK : count;
        for (long i = block * BLOCK; i < last; i++) {
            const float value = wide(grad[i]) * weights[i];
            if (scores)
                out[i] = scores[i] > 0.0f ? value : scores[i] < 0.0f ? -value : 0.0f * value;
            else
                out[i] = value;
        }
    }
}

}  // extern "C"

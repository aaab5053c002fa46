// Rounds one panel of a checkpoint's matrix to the integers and scales of
// quant/quantizer.py, in the layout of kernels/panels.py.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace llmpq {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float ToFloat(float value) { return value; }
inline float ToFloat(Bfloat16 value) { return FromBits(uint32_t{value.bits} << 16); }
inline float ToFloat(Float16 value) {
  const uint32_t sign = uint32_t{value.bits} >> 15 << 31, rest = value.bits & 0x7fffu;
  // XLA's threads flush subnormal numbers to zero, so these are computed from integers.
  if (rest < 0x400) return FromBits(sign | 0x33800000) * static_cast<float>(rest);  // 2^-24
  const uint32_t exponents = rest < 0x7c00 ? 112 : 224;  // 224: infinity and NaN
  return FromBits(sign | ((rest << 13) + (exponents << 23)));
}

// Rounds to the nearest integer, ties to even, numbers below 2^22.
inline float ToNearest(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (value + kShift) - kShift;
}

constexpr int64_t kChunk = 64;  // contracted rows that are transposed together

struct Rounding {
  int64_t num_contracted;
  int64_t group;
  float largest;  // integer
};

template <class T>
float ScaleOf(const T* row, int64_t count, float largest) {
  float magnitude = 0;
  for (int64_t c = 0; c < count; ++c) {
    magnitude = std::max(magnitude, std::fabs(ToFloat(row[c])));
  }
  const float quotient = magnitude * (1.0f / largest);
  return quotient >= FLT_MIN ? quotient : 1.0f;
}

template <class T>
void RoundRow(const T* row, int64_t count, float scale, float largest, int8_t* to) {
  const float reciprocal = 1.0f / scale;
  for (int64_t c = 0; c < count; ++c) {
    const float quotient = ToFloat(row[c]) * reciprocal;
    const float kept = std::min(std::max(quotient, -largest), largest);
    to[c] = static_cast<int8_t>(ToNearest(kept == kept ? kept : 0.0f));
  }
}

// Rounds rows of one group, at most kChunk of them, of all features: `rounded` [kPanel][kChunk].
inline void PutInt8(const int8_t* rounded, int64_t count, int64_t at, void* values) {
  auto* to = static_cast<int8_t*>(values) + at * kPanel;
  for (int64_t c = 0; c < count; ++c) {
    for (int f = 0; f < kPanel; ++f) to[c * kPanel + f] = rounded[f * kChunk + c];
  }
}

inline void PutInt4(const int8_t* rounded, int64_t count, int64_t at, void* values) {
  auto* to = static_cast<uint32_t*>(values) + at / kRowsPerWord * kPanel;
  for (int64_t c = 0; c < count; c += kRowsPerWord) {
    for (int f = 0; f < kPanel; ++f) {
      uint32_t word = 0;
      for (int i = 0; i < kRowsPerWord; ++i) {
        const int value = rounded[f * kChunk + c + i];
        const int stored = i + 1 < kRowsPerWord ? value + 8 : value;
        word |= static_cast<uint32_t>(stored & 15) << (4 * i);
      }
      *to++ = word;
    }
  }
}

// weight: the panel's features, contiguous, from its first one.
template <class T, class Put>
void RoundPanel(const T* weight, int64_t num_valid, const Rounding& rounding, Put put,
                void* values, float* scale) {
  int8_t rounded[kPanel * kChunk] = {};
  const int64_t contracted = rounding.num_contracted;
  for (int64_t start = 0; start < contracted; start += rounding.group) {
    float* const scales = scale + start / rounding.group * kPanel;
    for (int64_t f = 0; f < kPanel; ++f) {
      const T* row = weight + f * contracted + start;
      scales[f] =
          f < num_valid ? ScaleOf(row, rounding.group, rounding.largest) : 1.0f;
    }
    for (int64_t c = start; c < start + rounding.group; c += kChunk) {
      const int64_t count = std::min(kChunk, start + rounding.group - c);
      for (int64_t f = 0; f < num_valid; ++f) {
        RoundRow(weight + f * contracted + c, count, scales[f], rounding.largest,
                 rounded + f * kChunk);
      }
      put(rounded, count, c, values);
    }
  }
}

inline void CopyPanel(const uint16_t* weight, int64_t num_valid, int64_t contracted,
               uint16_t* values) {
  for (int64_t c = 0; c < contracted; ++c) {
    for (int64_t f = 0; f < kPanel; ++f) {
      values[c * kPanel + f] = f < num_valid ? weight[f * contracted + c] : uint16_t{0};
    }
  }
}

}  // namespace llmpq

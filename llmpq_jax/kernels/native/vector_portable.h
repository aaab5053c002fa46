// Eight floats in plain C++, for processors without kernels for their instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace llmpq {
namespace portable {

struct Vector {
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 6;
  float lane[kLanes];

  template <class Make>
  static Vector Each(Make make) {
    Vector result;
    for (int i = 0; i < kLanes; ++i) result.lane[i] = make(i);
    return result;
  }
  static Vector Zero() { return Broadcast(0.0f); }
  static Vector Broadcast(float value) {
    return Each([&](int) { return value; });
  }
  static Vector Load(const float* from) {
    return Each([&](int i) { return from[i]; });
  }
  static Vector Load(const uint16_t* from) {
    return Each([&](int i) {
      const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return value;
    });
  }
  static Vector Load(const int8_t* from) {
    return Each([&](int i) { return static_cast<float>(from[i]); });
  }
  static Vector Masked(const uint32_t* from, uint32_t mask) {
    return Each([&](int i) {
      return static_cast<float>(static_cast<int32_t>(from[i] & mask));
    });
  }
  void Store(float* to) const { std::memcpy(to, lane, sizeof lane); }
  float Sum() const {
    float sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += lane[i];
    return sum;
  }
  static Vector Fma(Vector a, Vector b, Vector c) {
    return Each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static Vector Max(Vector a, Vector b) {
    return Each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  friend Vector operator+(Vector a, Vector b) {
    return Each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  friend Vector operator-(Vector a, Vector b) {
    return Each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  friend Vector operator*(Vector a, Vector b) {
    return Each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static Vector Exp(Vector a) {
    return Each([&](int i) { return std::exp(a.lane[i]); });
  }
};

}  // namespace portable
}  // namespace llmpq

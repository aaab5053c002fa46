// Eight floats in one register of AVX2, with fused multiply-add.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace llmpq {
namespace avx2 {

struct Vector {
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 6;  // two sums for each, and 16 registers
  __m256 lane;

  static Vector Zero() { return {_mm256_setzero_ps()}; }
  static Vector Broadcast(float value) { return {_mm256_set1_ps(value)}; }
  static Vector Load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Vector Load(const uint16_t* from) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
  }
  static Vector Load(const int8_t* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
  }
  static Vector Masked(const uint32_t* from, uint32_t mask) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i masks = _mm256_set1_epi32(static_cast<int32_t>(mask));
    return {_mm256_cvtepi32_ps(_mm256_and_si256(words, masks))};
  }
  void Store(float* to) const { _mm256_storeu_ps(to, lane); }
  float Sum() const {
    const __m128 half =
        _mm_add_ps(_mm256_castps256_ps128(lane), _mm256_extractf128_ps(lane, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }
  static Vector Fma(Vector a, Vector b, Vector c) {
    return {_mm256_fmadd_ps(a.lane, b.lane, c.lane)};
  }
  static Vector Max(Vector a, Vector b) {
    return {_mm256_max_ps(a.lane, b.lane)};
  }
  friend Vector operator+(Vector a, Vector b) {
    return {_mm256_add_ps(a.lane, b.lane)};
  }
  friend Vector operator-(Vector a, Vector b) {
    return {_mm256_sub_ps(a.lane, b.lane)};
  }
  friend Vector operator*(Vector a, Vector b) {
    return {_mm256_mul_ps(a.lane, b.lane)};
  }
  // For arguments of at most 0, as in softmax: 2^n · 2^f with |f| ≤ 1/2, and the Taylor
  // series of 2^f to its seventh power, whose remainder is below one unit in the last
  // place. A result that would be subnormal is 0.
  static Vector Exp(Vector a) {
    const __m256 power = _mm256_mul_ps(a.lane, _mm256_set1_ps(1.44269504f));
    const __m256 whole =
        _mm256_round_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // The logarithm in two parts, so that the remainder keeps all its digits.
    __m256 rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(0.693359375f), a.lane);
    rest = _mm256_fnmadd_ps(whole, _mm256_set1_ps(-2.12194440e-4f), rest);
    __m256 sum = _mm256_set1_ps(1.0f / 5040);
    for (float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
      sum = _mm256_fmadd_ps(sum, rest, _mm256_set1_ps(factor));
    }
    const __m256i exponent = _mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    const __m256 is_normal =
        _mm256_cmp_ps(whole, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    const __m256 result = _mm256_mul_ps(sum, _mm256_castsi256_ps(exponent));
    return {_mm256_and_ps(result, is_normal)};
  }
};

}  // namespace avx2
}  // namespace llmpq

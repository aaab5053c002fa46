// Sixteen floats in one register of AVX-512: a panel is one register wide.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace llmpq {
namespace avx512 {

struct Vector {
  static constexpr int kLanes = 16;
  static constexpr int kMaxRows = 16;  // one sum for each, and 32 registers
  __m512 lane;

  static Vector Zero() { return {_mm512_setzero_ps()}; }
  static Vector Broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vector Load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Vector Load(const uint16_t* from) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
  }
  static Vector Load(const int8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
  }
  static Vector Masked(const uint32_t* from, uint32_t mask) {
    const __m512i words = _mm512_loadu_si512(from);
    const __m512i masks = _mm512_set1_epi32(static_cast<int32_t>(mask));
    return {_mm512_cvtepi32_ps(_mm512_and_si512(words, masks))};
  }
  void Store(float* to) const { _mm512_storeu_ps(to, lane); }
  float Sum() const { return _mm512_reduce_add_ps(lane); }
  static Vector Fma(Vector a, Vector b, Vector c) {
    return {_mm512_fmadd_ps(a.lane, b.lane, c.lane)};
  }
  static Vector Max(Vector a, Vector b) { return {_mm512_max_ps(a.lane, b.lane)}; }
  friend Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.lane, b.lane)}; }
  friend Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.lane, b.lane)}; }
  friend Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.lane, b.lane)}; }
  // As in vector_avx2.h.
  static Vector Exp(Vector a) {
    const __m512 power = _mm512_mul_ps(a.lane, _mm512_set1_ps(1.44269504f));
    const __m512 whole =
        _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), a.lane);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.0f / 5040);
    for (float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
      sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
    }
    const __mmask16 is_normal =
        _mm512_cmp_ps_mask(whole, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    return {_mm512_maskz_scalef_ps(is_normal, sum, whole)};
  }
};

}  // namespace avx512
}  // namespace llmpq

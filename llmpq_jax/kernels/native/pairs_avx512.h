// Weights as pairs of bfloat16, each pair a word: the operands of the instructions that
// multiply bfloat16. Weights of 8 bits and fewer are bfloat16 without rounding.
//
// Pairs are rows (2i, 2i + 1) of int8 and bfloat16, and rows (8i + k, 8i + k + 4), k < 4,
// of int4, which have the same position in the two halves of a word.
//
// Included by one file for each instruction set, inside that set's namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace llmpq {
namespace LLMPQ_ISA {

struct Pairs {
  __m512i lane;  // of 16 features
};

// The float of such an integer has zeros below a bfloat16's digits: shifting converts it.
inline __m512i Floats(const int8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
}

// Order of the 16-bit numbers of two rows that makes those of a feature neighbours.
inline __m512i PairOrder() {
  const __m512i first =
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(kPanel));
  return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}

template <class T>
struct Rows;

template <>
struct Rows<int8_t> {
  Pairs Two(const int8_t* from) const {
    const __m512i low = _mm512_srli_epi32(Floats(from), 16);
    return {_mm512_or_si512(Floats(from + kPanel), low)};
  }
  Pairs Last(const int8_t* from) const { return {_mm512_srli_epi32(Floats(from), 16)}; }
};

template <>
struct Rows<uint16_t> {
  __m512i order = PairOrder();

  Pairs Two(const uint16_t* from) const {
    return {_mm512_permutexvar_epi16(order, _mm512_loadu_si512(from))};
  }
  Pairs Last(const uint16_t* from) const {
    const __m256i row = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_cvtepu16_epi32(row)};
  }
};

// bfloat16 of -8 to 7 by the four lowest bits; the fifth bit belongs to another row.
inline __m512i NibbleTable() {
  alignas(64) uint16_t table[32];
  for (int i = 0; i < 32; ++i) {
    const float value = static_cast<float>(i % 16 - 8);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    table[i] = static_cast<uint16_t>(bits >> 16);
  }
  return _mm512_load_si512(table);
}

template <int kShift>
Pairs Int4Pairs(__m512i words, __m512i table) {
  // The last row of a word has no 8 added: flipping its highest bit adds it.
  if constexpr (kShift == 3) {
    words = _mm512_xor_si512(words, _mm512_set1_epi32(INT32_MIN));
  }
  return {_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * kShift), table)};
}

}  // namespace LLMPQ_ISA
}  // namespace llmpq

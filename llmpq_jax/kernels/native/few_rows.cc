// Compiled with -mavx512vnni and AVX-512; called only where the processor has them.
//
// Products of one or two rows are bound by memory, and the less work a byte takes, the more
// loads are in flight. Weights become 16-bit integers instead of floats, and hidden states
// two such limbs each: x = (high * 2^15 + low) * unit, where the unit is one power of two
// for a row. One instruction then adds 32 products to 16 sums, without rounding. The error
// of x is below 2^-29 of the largest number in its row.
//
// Pairs of rows are those of pairs_avx512.h. Packed hidden states: for each row all high
// limbs, then all low ones, in the order of the pairs. In place of sums: the rows' units,
// and for int4 eight times the sum of each group's limbs, [G][rows][2].
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#define LLMPQ_ISA few_rows
#include "pairs_avx512.h"

namespace llmpq {
namespace few_rows {

constexpr int64_t kMaxRows = 2;
constexpr int kLimbs = 2;
constexpr int kLowBits = 15;
constexpr int kBits = 29;  // of a hidden state
constexpr int64_t kAtOnce = 16;
constexpr int64_t kPrefetchBytes = 6144;
constexpr int64_t kLineBytes = 64;

// Into the second-level cache: prefetches into the first one would fill its line buffers.
inline void Prefetch(const void* from) {
  __builtin_prefetch(static_cast<const char*>(from) + kPrefetchBytes, 0, 2);
}

// Sums of this many pairs stay below 2^31: 2 * 127 * 2^14 a pair, 2 * 15 * 2^14 at int4.
constexpr int64_t kInt8Pairs = 512;
constexpr int64_t kMaxInt4Group = 8192;

constexpr int64_t Padded(int64_t contracted) { return contracted + contracted % 2; }

struct Limbs {
  __m512i high, low;  // of 16 hidden states, int32
};

inline __m512 LoadFloats(const void* from, Number number, int64_t at, __mmask16 here) {
  if (number == Number::kFloat32) {
    return _mm512_maskz_loadu_ps(here, static_cast<const float*>(from) + at);
  }
  const __m256i halves =
      _mm256_maskz_loadu_epi16(here, static_cast<const uint16_t*>(from) + at);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline __mmask16 First(int64_t count) {
  return static_cast<__mmask16>(count >= kAtOnce ? 0xffff : (1u << count) - 1);
}

// The unit of a row, in which its numbers have kBits bits; NaN if one is not finite.
inline float UnitOf(const PackArgs& args, int64_t row) {
  __m512 largest = _mm512_setzero_ps();
  __mmask16 is_wrong = 0;
  for (int64_t c = 0; c < args.num_contracted; c += kAtOnce) {
    const __m512 values =
        _mm512_abs_ps(LoadFloats(args.hidden, args.number, row * args.num_contracted + c,
                                 First(args.num_contracted - c)));
    is_wrong |= _mm512_cmp_ps_mask(values, _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
    largest = _mm512_max_ps(largest, values);
  }
  if (is_wrong) return NAN;
  int exponent = 0;
  std::frexp(_mm512_reduce_max_ps(largest), &exponent);
  // Its reciprocal is a float too.
  return std::ldexp(1.0f, std::max(exponent, -90) - kBits);
}

inline Limbs Split(__m512 values, float per_unit) {
  const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(per_unit)));
  const __m512i half = _mm512_set1_epi32(1 << (kLowBits - 1));
  const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, half), kLowBits);
  return {high, _mm512_sub_epi32(whole, _mm512_slli_epi32(high, kLowBits))};
}

void PackLimbs(const PackArgs& args) {
  const int64_t contracted = args.num_contracted, rows = args.num_rows;
  const bool is_int4 = args.kind == WeightKind::kInt4;
  auto* const limbs = reinterpret_cast<int16_t*>(args.packed);
  float* const units = args.sums;
  auto* const sums = reinterpret_cast<int32_t*>(args.sums + rows);
  // Order of 16 numbers that makes rows 8i + k and 8i + k + 4 neighbours.
  const __m256i order =
      _mm256_set_epi16(15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0);
  for (int64_t r = 0; r < rows; ++r) {
    units[r] = UnitOf(args, r);
    const float per_unit = std::isnan(units[r]) ? 0.0f : 1.0f / units[r];
    int16_t* const high = limbs + kLimbs * r * Padded(contracted);
    int16_t* const low = high + Padded(contracted);
    for (int64_t c = 0; c < contracted; c += kAtOnce) {
      const int64_t left = contracted - c;
      const Limbs split = Split(
          LoadFloats(args.hidden, args.number, r * contracted + c, First(left)), per_unit);
      __m256i highs = _mm512_cvtepi32_epi16(split.high);
      __m256i lows = _mm512_cvtepi32_epi16(split.low);
      if (is_int4) {
        highs = _mm256_permutexvar_epi16(order, highs);
        lows = _mm256_permutexvar_epi16(order, lows);
      }
      // The partner of an odd row is zeros.
      _mm256_mask_storeu_epi16(high + c, First(Padded(left)), highs);
      _mm256_mask_storeu_epi16(low + c, First(Padded(left)), lows);
    }
    if (!is_int4) continue;
    const int64_t group = contracted / args.num_groups;
    for (int64_t g = 0; g < args.num_groups; ++g) {
      int32_t sum[kLimbs] = {};
      for (int64_t c = g * group; c < (g + 1) * group; ++c) {
        sum[0] += high[c];
        sum[1] += low[c];
      }
      sums[(g * rows + r) * kLimbs] = 8 * sum[0];
      sums[(g * rows + r) * kLimbs + 1] = 8 * sum[1];
    }
  }
}

// Weights of two rows as pairs of 16-bit integers.
struct Int8Pairs {
  __m512i order = PairOrder();

  __m512i Two(const int8_t* from) const {
    const __m256i rows = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_permutexvar_epi16(order, _mm512_cvtepi8_epi16(rows));
  }
  __m512i Last(const int8_t* from) const {
    const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_permutexvar_epi16(order,
                                    _mm512_cvtepi8_epi16(_mm256_zextsi128_si256(row)));
  }
};

inline int32_t PairAt(const int16_t* limbs, int64_t pair) {
  int32_t word;
  std::memcpy(&word, limbs + 2 * pair, sizeof word);
  return word;
}

template <int kRows>
struct Sums {
  __m512i lane[kRows][kLimbs];

  Sums() {
    for (auto& row : lane) {
      for (auto& sum : row) sum = _mm512_setzero_si512();
    }
  }
  void Add(const int16_t* const (&limbs)[kRows][kLimbs], int64_t pair, __m512i weights) {
    for (int r = 0; r < kRows; ++r) {
      for (int l = 0; l < kLimbs; ++l) {
        const __m512i both = _mm512_set1_epi32(PairAt(limbs[r][l], pair));
        lane[r][l] = _mm512_dpwssd_epi32(lane[r][l], weights, both);
      }
    }
  }
  void Add(const Sums& other) {
    for (int r = 0; r < kRows; ++r) {
      for (int l = 0; l < kLimbs; ++l) {
        lane[r][l] = _mm512_add_epi32(lane[r][l], other.lane[r][l]);
      }
    }
  }
  // In the units of its row, less the offset's share of each limb.
  __m512 Value(int r, int32_t less_high, int32_t less_low) const {
    const __m512i high = _mm512_sub_epi32(lane[r][0], _mm512_set1_epi32(less_high));
    const __m512i low = _mm512_sub_epi32(lane[r][1], _mm512_set1_epi32(less_low));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(1 << kLowBits),
                           _mm512_cvtepi32_ps(low));
  }
};

constexpr int kChains = 4;  // independent chains of sums

template <int kRows>
struct Block {
  const int16_t* limbs[kRows][kLimbs];
  __m512 totals[kRows];
  const float* units;
  const int32_t* sums;

  explicit Block(const TileArgs& args) {
    const auto* packed = reinterpret_cast<const int16_t*>(args.packed);
    for (int r = 0; r < kRows; ++r) {
      for (int l = 0; l < kLimbs; ++l) {
        limbs[r][l] = packed + (kLimbs * r + l) * Padded(args.num_contracted);
      }
      totals[r] = _mm512_setzero_ps();
    }
    units = args.sums;
    sums = reinterpret_cast<const int32_t*>(args.sums + kRows);
  }
  void Write(const TileArgs& args) const {
    const auto valid = static_cast<__mmask16>((1u << args.num_valid) - 1);
    for (int r = 0; r < kRows; ++r) {
      const __m512 row = _mm512_mul_ps(totals[r], _mm512_set1_ps(units[r]));
      if (args.number == Number::kFloat32) {
        _mm512_mask_storeu_ps(static_cast<float*>(args.out) + r * args.out_stride, valid,
                              row);
        continue;
      }
      auto* out = static_cast<uint16_t*>(args.out) + r * args.out_stride;
      _mm256_mask_storeu_epi16(out, valid, ToBfloat16s(row));
    }
  }
  static __m256i ToBfloat16s(__m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0)));
  }
};

template <int kRows>
void MultiplyInt8(const TileArgs& args) {
  const auto* values = static_cast<const int8_t*>(args.values);
  const Int8Pairs pairs;
  Block<kRows> block(args);
  const int64_t whole = args.num_contracted / 2;
  for (int64_t start = 0; start < whole || start == 0; start += kInt8Pairs) {
    const int64_t end = std::min(whole, start + kInt8Pairs);
    Sums<kRows> chains[kChains];
    int64_t pair = start;
    for (; pair + kChains <= end; pair += kChains) {
      const int8_t* from = values + 2 * pair * kPanel;
      for (int64_t byte = 0; byte < 2 * kChains * kPanel; byte += kLineBytes) {
        Prefetch(from + byte);
      }
      for (int i = 0; i < kChains; ++i) {
        chains[i].Add(block.limbs, pair + i, pairs.Two(from + 2 * i * kPanel));
      }
    }
    for (; pair < end; ++pair) {
      chains[0].Add(block.limbs, pair, pairs.Two(values + 2 * pair * kPanel));
    }
    if (end == whole && args.num_contracted % 2) {
      // At most one more than kInt8Pairs, whose partner is zeros.
      chains[1].Add(block.limbs, whole, pairs.Last(values + 2 * whole * kPanel));
    }
    for (int i = 1; i < kChains; ++i) chains[0].Add(chains[i]);
    for (int r = 0; r < kRows; ++r) {
      block.totals[r] = _mm512_add_ps(block.totals[r], chains[0].Value(r, 0, 0));
    }
  }
  const __m512 scale = _mm512_loadu_ps(args.scale);
  for (auto& total : block.totals) total = _mm512_mul_ps(total, scale);
  block.Write(args);
}

template <int kShift>
__m512i Nibbles(__m512i words) {
  return _mm512_and_si512(_mm512_srli_epi16(words, 4 * kShift), _mm512_set1_epi16(15));
}

template <int kRows>
void MultiplyInt4(const TileArgs& args) {
  const auto* words = static_cast<const uint32_t*>(args.values);
  const int64_t group_words = args.num_contracted / args.num_groups / kRowsPerWord;
  // The last row of a word has no 8 added: flipping its highest bit adds it.
  const __m512i last = _mm512_set1_epi32(INT32_MIN);
  Block<kRows> block(args);
  int64_t pair = 0;
  for (int64_t g = 0; g < args.num_groups; ++g) {
    Sums<kRows> chains[kChains];
    for (int64_t word = 0; word < group_words; ++word) {
      Prefetch(words);
      const __m512i held = _mm512_xor_si512(_mm512_loadu_si512(words), last);
      chains[0].Add(block.limbs, pair, Nibbles<0>(held));
      chains[1].Add(block.limbs, pair + 1, Nibbles<1>(held));
      chains[2].Add(block.limbs, pair + 2, Nibbles<2>(held));
      chains[3].Add(block.limbs, pair + 3, _mm512_srli_epi16(held, 12));
      words += kPanel;
      pair += 4;
    }
    for (int i = 1; i < kChains; ++i) chains[0].Add(chains[i]);
    const __m512 scale = _mm512_loadu_ps(args.scale + g * kPanel);
    for (int r = 0; r < kRows; ++r) {
      const int32_t* less = block.sums + (g * kRows + r) * kLimbs;
      block.totals[r] = _mm512_fmadd_ps(scale, chains[0].Value(r, less[0], less[1]),
                                        block.totals[r]);
    }
  }
  block.Write(args);
}

void Tile(const TileArgs& args) {
  if (args.kind == WeightKind::kInt8) {
    args.num_rows == 1 ? MultiplyInt8<1>(args) : MultiplyInt8<2>(args);
  } else {
    args.num_rows == 1 ? MultiplyInt4<1>(args) : MultiplyInt4<2>(args);
  }
}

constexpr Multiplier kMultiplier = {kMaxRows, sizeof(float), PackLimbs, Tile};

}  // namespace few_rows

const Multiplier* FewRowsMultiplier(const ProductShape& shape) {
  if (shape.num_rows > few_rows::kMaxRows || shape.kind == WeightKind::kBfloat16) {
    return nullptr;
  }
  const bool fits = shape.kind == WeightKind::kInt8 ||
                    shape.num_contracted / shape.num_groups <= few_rows::kMaxInt4Group;
  return fits ? &few_rows::kMultiplier : nullptr;
}

}  // namespace llmpq

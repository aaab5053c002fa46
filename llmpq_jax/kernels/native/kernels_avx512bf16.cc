// Compiled with -mavx512bf16 and related flags; called only where the processor has them.
//
// bfloat16 hidden states are multiplied in pairs: one instruction adds 32 products to 16
// sums in float32, twice as many as of float32 operands. All other products go to avx512.
//
// Packed hidden states are the pairs' words, [pairs][rows of the block]; the offset of
// int4 is subtracted by a table.
#include <immintrin.h>

#include <array>
#include <cstdint>
#include <utility>

#include "kernels.h"

#define LLMPQ_ISA avx512bf16
#include "pairs_avx512.h"

namespace llmpq {
namespace avx512bf16 {

constexpr int kMaxRows = 16;
constexpr int64_t kPrefetchBytes = 4096;
constexpr size_t kLineBytes = 64;

inline void PackPairs(const PackArgs& args) {
  const uint16_t* hidden = static_cast<const uint16_t*>(args.hidden);
  uint32_t* packed = reinterpret_cast<uint32_t*>(args.packed);
  const int64_t rows = args.num_rows, contracted = args.num_contracted;
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* from = hidden + r * contracted;
    const auto put = [&](int64_t pair, uint16_t low, uint16_t high) {
      packed[pair * rows + r] = static_cast<uint32_t>(high) << 16 | low;
    };
    if (args.kind == WeightKind::kInt4) {
      for (int64_t pair = 0; pair < contracted / 2; ++pair) {
        const int64_t row = pair / 4 * kRowsPerWord + pair % 4;
        put(pair, from[row], from[row + 4]);
      }
      continue;
    }
    for (int64_t pair = 0; pair < contracted / 2; ++pair) {
      put(pair, from[2 * pair], from[2 * pair + 1]);
    }
    if (contracted % 2) put(contracted / 2, from[contracted - 1], 0);
  }
}

constexpr int SumsFor(int rows) { return rows == 1 ? 8 : rows <= 3 ? 4 : rows <= 7 ? 2 : 1; }

template <int kRows>
struct Sums {
  __m512 lane[kRows];

  static Sums Zero() {
    Sums result;
    for (auto& sum : result.lane) sum = _mm512_setzero_ps();
    return result;
  }
  void Add(const uint32_t* packed, Pairs weight) {
    for (int r = 0; r < kRows; ++r) {
      const __m512i both = _mm512_set1_epi32(static_cast<int32_t>(packed[r]));
      lane[r] = _mm512_dpbf16_ps(lane[r], reinterpret_cast<__m512bh>(both),
                                 reinterpret_cast<__m512bh>(weight.lane));
    }
  }
};

template <int kRows, int kSums>
Sums<kRows> Folded(const Sums<kRows> (&sums)[kSums]) {
  Sums<kRows> result = sums[0];
  for (int s = 1; s < kSums; ++s) {
    for (int r = 0; r < kRows; ++r) {
      result.lane[r] = _mm512_add_ps(result.lane[r], sums[s].lane[r]);
    }
  }
  return result;
}

enum class From { kWeights, kWeightsAndKeep, kKept };

// Address of the panel's next kept pairs, or null.
struct Kept {
  uint32_t* next;
  template <From kFrom, class Make>
  Pairs TakeOr(Make make) {
    if constexpr (kFrom == From::kKept) {
      const Pairs pairs = {_mm512_loadu_si512(next)};
      next += kPanel;
      return pairs;
    }
    const Pairs pairs = make();
    if constexpr (kFrom == From::kWeightsAndKeep) {
      _mm512_storeu_si512(next, pairs.lane);
      next += kPanel;
    }
    return pairs;
  }
};

// Weights with contiguous rows, of int8_t or, as bfloat16, uint16_t.
template <class T, int kRows, From kFrom>
Sums<kRows> MultiplyRows(const TileArgs& args) {
  constexpr int kSums = SumsFor(kRows);
  const T* values = static_cast<const T*>(args.values);
  const uint32_t* packed = reinterpret_cast<const uint32_t*>(args.packed);
  Kept kept{reinterpret_cast<uint32_t*>(args.kept)};
  Sums<kRows> sums[kSums];
  for (auto& sum : sums) sum = Sums<kRows>::Zero();
  const Rows<T> rows;
  const int64_t whole = args.num_contracted / 2;
  const auto step = [&](int64_t pair, Sums<kRows>& sum) {
    const auto make = [&] { return rows.Two(values + 2 * pair * kPanel); };
    sum.Add(packed + pair * kRows, kept.TakeOr<kFrom>(make));
  };
  int64_t pair = 0;
  for (; pair + kSums <= whole; pair += kSums) {
    if constexpr (kFrom == From::kWeights) {
      const char* later = reinterpret_cast<const char*>(values + 2 * pair * kPanel);
      for (size_t byte = 0; byte < 2 * kSums * kPanel * sizeof(T); byte += kLineBytes) {
        __builtin_prefetch(later + kPrefetchBytes + byte);
      }
    }
    for (int s = 0; s < kSums; ++s) step(pair + s, sums[s]);
  }
  for (; pair < whole; ++pair) step(pair, sums[0]);
  if (args.num_contracted % 2) {
    const auto make = [&] { return rows.Last(values + 2 * pair * kPanel); };
    sums[0].Add(packed + pair * kRows, kept.TakeOr<kFrom>(make));
  }
  return Folded(sums);
}

template <int kRows, From kFrom>
Sums<kRows> MultiplyInt8(const TileArgs& args) {
  Sums<kRows> total = MultiplyRows<int8_t, kRows, kFrom>(args);
  const __m512 scale = _mm512_loadu_ps(args.scale);
  for (auto& sum : total.lane) sum = _mm512_mul_ps(sum, scale);
  return total;
}

template <int kRows, From kFrom>
Sums<kRows> MultiplyInt4(const TileArgs& args) {
  constexpr int kSums = SumsFor(kRows);
  const uint32_t* words = static_cast<const uint32_t*>(args.values);
  const uint32_t* packed = reinterpret_cast<const uint32_t*>(args.packed);
  const int64_t group_words = args.num_contracted / args.num_groups / kRowsPerWord;
  const __m512i table = NibbleTable();
  Kept kept{reinterpret_cast<uint32_t*>(args.kept)};
  Sums<kRows> total = Sums<kRows>::Zero();
  for (int64_t g = 0; g < args.num_groups; ++g) {
    Sums<kRows> sums[kSums];
    for (auto& sum : sums) sum = Sums<kRows>::Zero();
    for (int64_t word = 0; word < group_words; ++word) {
      __m512i held = _mm512_setzero_si512();
      if constexpr (kFrom != From::kKept) held = _mm512_loadu_si512(words);
      if constexpr (kFrom == From::kWeights) {
        __builtin_prefetch(reinterpret_cast<const char*>(words) + kPrefetchBytes);
      }
      const int other = kSums == 8 && word % 2 ? 4 : 0;
      sums[other % kSums].Add(
          packed, kept.TakeOr<kFrom>([&] { return Int4Pairs<0>(held, table); }));
      sums[(other + 1) % kSums].Add(
          packed + kRows, kept.TakeOr<kFrom>([&] { return Int4Pairs<1>(held, table); }));
      sums[(other + 2) % kSums].Add(
          packed + 2 * kRows, kept.TakeOr<kFrom>([&] { return Int4Pairs<2>(held, table); }));
      sums[(other + 3) % kSums].Add(
          packed + 3 * kRows, kept.TakeOr<kFrom>([&] { return Int4Pairs<3>(held, table); }));
      words += kPanel;
      packed += 4 * kRows;
    }
    const Sums<kRows> sum = Folded(sums);
    const __m512 scale = _mm512_loadu_ps(args.scale + g * kPanel);
    for (int r = 0; r < kRows; ++r) {
      total.lane[r] = _mm512_fmadd_ps(scale, sum.lane[r], total.lane[r]);
    }
  }
  return total;
}

template <int kRows, From kFrom>
Sums<kRows> Multiply(const TileArgs& args) {
  switch (args.kind) {
    case WeightKind::kBfloat16: return MultiplyRows<uint16_t, kRows, kFrom>(args);
    case WeightKind::kInt8: return MultiplyInt8<kRows, kFrom>(args);
    case WeightKind::kInt4: break;
  }
  return MultiplyInt4<kRows, kFrom>(args);
}

template <int kRows, From kFrom>
void TileFrom(const TileArgs& args) {
  const Sums<kRows> sums = Multiply<kRows, kFrom>(args);
  uint16_t* out = static_cast<uint16_t*>(args.out);
  const __mmask16 valid = static_cast<__mmask16>((1u << args.num_valid) - 1);
  for (const __m512& sum : sums.lane) {
    const __m256i row = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum));
    _mm256_mask_storeu_epi16(out, valid, row);
    out += args.out_stride;
  }
}

template <int kRows>
void TileOf(const TileArgs& args) {
  if (args.kept == nullptr) return TileFrom<kRows, From::kWeights>(args);
  if (args.is_kept) return TileFrom<kRows, From::kKept>(args);
  return TileFrom<kRows, From::kWeightsAndKeep>(args);
}

using TileFunction = void (*)(const TileArgs&);

template <int... kRowsLessOne>
constexpr std::array<TileFunction, sizeof...(kRowsLessOne)> TilesOf(
    std::integer_sequence<int, kRowsLessOne...>) {
  return {TileOf<kRowsLessOne + 1>...};
}

inline void TilePairs(const TileArgs& args) {
  static constexpr auto kTiles = TilesOf(std::make_integer_sequence<int, kMaxRows>());
  kTiles[args.num_rows - 1](args);
}

constexpr Multiplier kMultiplier = {kMaxRows, 2, PackPairs, TilePairs};

inline const Multiplier& MultiplierFor(const ProductShape& shape) {
  if (const Multiplier* few = FewRowsMultiplier(shape)) return *few;
  return shape.number == Number::kBfloat16 ? kMultiplier
                                           : kAvx512Kernels.multiplier_for(shape);
}

inline void Attend(const AttendArgs& args) { kAvx512Kernels.attend(args); }

}  // namespace avx512bf16

const Kernels kAvx512Bf16Kernels = {"avx512bf16", avx512bf16::MultiplierFor,
                                    avx512bf16::Attend};
}  // namespace llmpq

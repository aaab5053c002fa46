// Packing and multiplying, written once over a vector type.
//
// Included by one file for each instruction set, inside that set's namespace: code that
// is compiled for one processor must not be merged with that for another.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace llmpq {
namespace LLMPQ_ISA {

inline uint16_t ToBfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float ToFloat(float value) { return value; }
inline float ToFloat(int8_t value) { return value; }
inline float ToFloat(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void StoreNumber(float value, float* to) { *to = value; }
inline void StoreNumber(float value, uint16_t* to) { *to = ToBfloat16(value); }

// 16^-i for the rows of a word.
constexpr float kUnit[kRowsPerWord] = {1.0f,         0x1p-4f,  0x1p-8f,  0x1p-12f,
                                       0x1p-16f, 0x1p-20f, 0x1p-24f, 0x1p-28f};
constexpr uint32_t kMask[kRowsPerWord] = {
    0xfu,     0xf0u,     0xf00u,     0xf000u,
    0xf0000u, 0xf00000u, 0xf000000u, 0xf0000000u};
constexpr float kOffset = 8.0f;

template <class T>
void PackRows(const PackArgs& args) {
  const T* hidden = static_cast<const T*>(args.hidden);
  const int64_t rows = args.num_rows, contracted = args.num_contracted;
  if (args.kind != WeightKind::kInt4) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = hidden + r * contracted;
      for (int64_t c = 0; c < contracted; ++c) {
        args.packed[c * rows + r] = ToFloat(from[c]);
      }
    }
    return;
  }
  const int64_t group = contracted / args.num_groups;
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = hidden + r * contracted;
    for (int64_t g = 0; g < args.num_groups; ++g) {
      float sum = 0;
      for (int64_t c = g * group; c < (g + 1) * group; c += kRowsPerWord) {
        float part = 0;
        for (int i = 0; i < kRowsPerWord; ++i) {
          const float value = ToFloat(from[c + i]);
          args.packed[(c + i) * rows + r] = value * kUnit[i];
          if (i + 1 < kRowsPerWord) part += value;
        }
        sum += part;
      }
      args.sums[g * rows + r] = kOffset * sum;
    }
  }
}

inline void Pack(const PackArgs& args) {
  if (args.number == Number::kFloat32) {
    PackRows<float>(args);
  } else {
    PackRows<uint16_t>(args);
  }
}

// Processors stop prefetching at the end of a page, so the next page is prefetched here.
constexpr int64_t kPrefetchBytes = 4096;
constexpr size_t kLineBytes = 64;

constexpr int kVectors = kPanel / Vector::kLanes;

// With few rows the multipliers would wait for their own sums: such rows get several sums,
// over every second, fourth or eighth contracted row, so that about eight are in flight.
constexpr int SumsFor(int rows) {
  const int vectors = rows * kVectors;
  return vectors == 1 ? 8 : vectors <= 3 ? 4 : vectors <= 6 ? 2 : 1;
}

template <int kRows>
struct Sums {
  Vector lane[kRows][kVectors];

  static Sums Zero() {
    Sums result;
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) result.lane[r][v] = Vector::Zero();
    }
    return result;
  }
  void Add(const float* packed, const Vector (&weight)[kVectors]) {
    for (int r = 0; r < kRows; ++r) {
      const Vector x = Vector::Broadcast(packed[r]);
      for (int v = 0; v < kVectors; ++v) {
        lane[r][v] = Vector::Fma(x, weight[v], lane[r][v]);
      }
    }
  }
};

template <int kRows, int kSums>
Sums<kRows> Folded(const Sums<kRows> (&sums)[kSums]) {
  Sums<kRows> result = sums[0];
  for (int s = 1; s < kSums; ++s) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        result.lane[r][v] = result.lane[r][v] + sums[s].lane[r][v];
      }
    }
  }
  return result;
}

// Source of a tile's weights: converted here, converted and kept for the row blocks that
// follow, or kept before.
enum class From { kWeights, kWeightsAndKeep, kKept };

template <From kFrom>
struct Kept {
  float* next;
  void Put(const Vector (&weight)[kVectors]) {
    if constexpr (kFrom == From::kWeightsAndKeep) {
      for (int v = 0; v < kVectors; ++v) weight[v].Store(next + v * Vector::kLanes);
      next += kPanel;
    }
  }
  void Take(Vector (&weight)[kVectors]) {
    for (int v = 0; v < kVectors; ++v) {
      weight[v] = Vector::Load(next + v * Vector::kLanes);
    }
    next += kPanel;
  }
};

// Weights with contiguous rows, of int8_t or, as bfloat16, uint16_t.
template <class T, int kRows, From kFrom>
Sums<kRows> MultiplyRows(const TileArgs& args) {
  constexpr int kSums = SumsFor(kRows);
  const T* values = static_cast<const T*>(args.values);
  const float* packed = args.packed;
  Kept<kFrom> kept{args.kept};
  Sums<kRows> sums[kSums];
  for (auto& sum : sums) sum = Sums<kRows>::Zero();
  const auto step = [&](int64_t c, Sums<kRows>& sum) {
    Vector weight[kVectors];
    if constexpr (kFrom == From::kKept) {
      kept.Take(weight);
    } else {
      for (int v = 0; v < kVectors; ++v) {
        weight[v] = Vector::Load(values + c * kPanel + v * Vector::kLanes);
      }
      kept.Put(weight);
    }
    sum.Add(packed + c * kRows, weight);
  };
  int64_t c = 0;
  for (; c + kSums <= args.num_contracted; c += kSums) {
    if constexpr (kFrom == From::kWeights) {
      const char* later = reinterpret_cast<const char*>(values + c * kPanel);
      for (size_t byte = 0; byte < kSums * kPanel * sizeof(T); byte += kLineBytes) {
        __builtin_prefetch(later + kPrefetchBytes + byte);
      }
    }
    for (int s = 0; s < kSums; ++s) step(c + s, sums[s]);
  }
  for (; c < args.num_contracted; ++c) step(c, sums[0]);
  return Folded(sums);
}

template <int kRows, From kFrom>
Sums<kRows> MultiplyInt8(const TileArgs& args) {
  Sums<kRows> total = MultiplyRows<int8_t, kRows, kFrom>(args);
  for (int v = 0; v < kVectors; ++v) {
    const Vector scale = Vector::Load(args.scale + v * Vector::kLanes);
    for (int r = 0; r < kRows; ++r) total.lane[r][v] = total.lane[r][v] * scale;
  }
  return total;
}

// The sum over one group, in units of its scale, before the + 8 is undone.
template <int kRows, From kFrom>
Sums<kRows> GroupInt4(const float* packed, const uint32_t* words, int64_t num_words,
                      float* kept_values) {
  constexpr int kSums = SumsFor(kRows);
  Kept<kFrom> kept{kept_values};
  Sums<kRows> sums[kSums];
  for (auto& sum : sums) sum = Sums<kRows>::Zero();
  for (int64_t word = 0; word < num_words; ++word) {
    if constexpr (kFrom == From::kWeights) {
      __builtin_prefetch(reinterpret_cast<const char*>(words) + kPrefetchBytes);
    }
    for (int i = 0; i < kRowsPerWord; ++i) {
      Vector weight[kVectors];
      if constexpr (kFrom == From::kKept) {
        kept.Take(weight);
      } else {
        for (int v = 0; v < kVectors; ++v) {
          weight[v] = Vector::Masked(words + v * Vector::kLanes, kMask[i]);
        }
        kept.Put(weight);
      }
      sums[i % kSums].Add(packed, weight);
      packed += kRows;
    }
    words += kPanel;
  }
  return Folded(sums);
}

template <int kRows, From kFrom>
Sums<kRows> MultiplyInt4(const TileArgs& args) {
  const uint32_t* words = static_cast<const uint32_t*>(args.values);
  const int64_t group = args.num_contracted / args.num_groups;
  Sums<kRows> total = Sums<kRows>::Zero();
  for (int64_t g = 0; g < args.num_groups; ++g) {
    const Sums<kRows> sum = GroupInt4<kRows, kFrom>(
        args.packed + g * group * kRows, words + g * group / kRowsPerWord * kPanel,
        group / kRowsPerWord, args.kept + g * group * kPanel);
    for (int v = 0; v < kVectors; ++v) {
      const Vector scale = Vector::Load(args.scale + g * kPanel + v * Vector::kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vector offset = Vector::Broadcast(-args.sums[g * kRows + r]);
        total.lane[r][v] =
            Vector::Fma(scale, sum.lane[r][v] + offset, total.lane[r][v]);
      }
    }
  }
  return total;
}

template <class T, int kRows>
void Write(const Sums<kRows>& sums, const TileArgs& args) {
  T* out = static_cast<T*>(args.out);
  for (int r = 0; r < kRows; ++r) {
    float row[kPanel];
    for (int v = 0; v < kVectors; ++v) sums.lane[r][v].Store(row + v * Vector::kLanes);
    if (args.num_valid == kPanel) {
      for (int f = 0; f < kPanel; ++f) StoreNumber(row[f], out + f);
    } else {
      for (int64_t f = 0; f < args.num_valid; ++f) StoreNumber(row[f], out + f);
    }
    out += args.out_stride;
  }
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
  if (args.number == Number::kFloat32) {
    Write<float>(sums, args);
  } else {
    Write<uint16_t>(sums, args);
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

inline void Tile(const TileArgs& args) {
  static constexpr auto kTiles =
      TilesOf(std::make_integer_sequence<int, Vector::kMaxRows>());
  kTiles[args.num_rows - 1](args);
}

constexpr Multiplier kMultiplier = {Vector::kMaxRows, sizeof(float), Pack, Tile};

inline const Multiplier& MultiplierFor(const ProductShape&) { return kMultiplier; }

}  // namespace LLMPQ_ISA
}  // namespace llmpq

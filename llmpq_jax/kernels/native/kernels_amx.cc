// Compiled with -mamx-tile, -mamx-bf16 and AVX-512; called only where the processor has
// them and Linux has permitted the process to use them (choice.cc).
//
// A tile is 16 rows of 64 bytes. One instruction multiplies 16 hidden states by 16
// features over 32 contracted rows, in bfloat16 with float32 sums. Four tiles of sums, 64
// hidden states, share each tile of weights, which is converted from a panel's pairs.
// All other shapes go to the kernels of avx512.
//
// Packed hidden states: [C/32][rows of the block][32], a tile's rows one after another.
#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#define LLMPQ_ISA amx
#include "pairs_avx512.h"

namespace llmpq {
namespace amx {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;
constexpr int64_t kMaxBlocks = 4;
constexpr int64_t kMaxRows = kMaxBlocks * kTileRows;
constexpr int64_t kStep = 32;  // contracted rows that one instruction takes
constexpr int64_t kTilePairs = kStep / 2 * kPanel;
constexpr int64_t kPrefetchBytes = 4096;
constexpr int64_t kLineBytes = 64;

// Some compilers' intrinsics are not declared to read and write memory: stores before them
// and loads after them must not be moved past them, nor left out.
inline void KeepMemory() { __asm__ volatile("" ::: "memory"); }

// Fewer rows are faster without tiles: converting tiles takes as long for any number.
constexpr int64_t kMinRows = 3;

// Tiles by number: four of sums, three of hidden states, one of weights. The intrinsics
// take literal numbers only: 0 to 3, 4 to 6, and 7.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  explicit TileShapes(int64_t num_rows) {
    const int64_t blocks = (num_rows + kTileRows - 1) / kTileRows;
    const auto last = static_cast<uint8_t>(num_rows - (blocks - 1) * kTileRows);
    for (int tile = 0; tile < 8; ++tile) {
      row_bytes[tile] = kTileBytes;
      rows[tile] = kTileRows;
    }
    rows[blocks - 1] = last;
    // The last block's hidden states have a tile of their own.
    rows[blocks == kMaxBlocks ? 6 : 3 + blocks] = last;
  }
};

void PackTiles(const PackArgs& args) {
  const auto* hidden = static_cast<const uint16_t*>(args.hidden);
  auto* packed = reinterpret_cast<uint16_t*>(args.packed);
  const int64_t rows = args.num_rows, contracted = args.num_contracted;
  // Order of 32 numbers that makes rows 8i + k and 8i + k + 4 neighbours.
  alignas(64) uint16_t places[kStep];
  for (int i = 0; i < kStep; ++i) {
    const int pair = i % kRowsPerWord / 2;
    places[i] = static_cast<uint16_t>(i / kRowsPerWord * kRowsPerWord + pair + i % 2 * 4);
  }
  const __m512i order = _mm512_load_si512(places);
  const bool is_int4 = args.kind == WeightKind::kInt4;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < contracted; c += kStep) {
      __m512i numbers = _mm512_loadu_si512(hidden + r * contracted + c);
      if (is_int4) numbers = _mm512_permutexvar_epi16(order, numbers);
      _mm512_storeu_si512(packed + c * rows + r * kStep, numbers);
    }
  }
}

// Converts the tile of weights for one step.
template <WeightKind kKind>
struct Tiles;

template <class T>
struct TilesOfRows {
  const T* values;
  Rows<T> rows;

  explicit TilesOfRows(const TileArgs& args)
      : values(static_cast<const T*>(args.values)) {}
  void Make(int64_t step, uint32_t* to) const {
    const T* from = values + step * kStep * kPanel;
    const auto* later = reinterpret_cast<const char*>(from) + kPrefetchBytes;
    constexpr int64_t kBytes = kStep * kPanel * static_cast<int64_t>(sizeof(T));
    for (int64_t byte = 0; byte < kBytes; byte += kLineBytes) {
      __builtin_prefetch(later + byte);
    }
    for (int64_t pair = 0; pair < kTileRows; ++pair) {
      _mm512_storeu_si512(to + pair * kPanel, rows.Two(from + 2 * pair * kPanel).lane);
    }
  }
};

template <>
struct Tiles<WeightKind::kInt8> : TilesOfRows<int8_t> {
  using TilesOfRows::TilesOfRows;
};

template <>
struct Tiles<WeightKind::kBfloat16> : TilesOfRows<uint16_t> {
  using TilesOfRows::TilesOfRows;
};

template <>
struct Tiles<WeightKind::kInt4> {
  const uint32_t* words;
  __m512i table = NibbleTable();

  explicit Tiles(const TileArgs& args)
      : words(static_cast<const uint32_t*>(args.values)) {}
  void Make(int64_t step, uint32_t* to) const {
    constexpr int64_t kWords = kStep / kRowsPerWord;
    const uint32_t* from = words + step * kWords * kPanel;
    for (int64_t word = 0; word < kWords; ++word) {
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kPrefetchBytes);
      const __m512i held = _mm512_loadu_si512(from);
      _mm512_storeu_si512(to, Int4Pairs<0>(held, table).lane);
      _mm512_storeu_si512(to + kPanel, Int4Pairs<1>(held, table).lane);
      _mm512_storeu_si512(to + 2 * kPanel, Int4Pairs<2>(held, table).lane);
      _mm512_storeu_si512(to + 3 * kPanel, Int4Pairs<3>(held, table).lane);
      to += 4 * kPanel;
      from += kPanel;
    }
  }
};

template <int kBlocks>
void ZeroSums() {
  _tile_zero(0);
  if constexpr (kBlocks > 1) _tile_zero(1);
  if constexpr (kBlocks > 2) _tile_zero(2);
  if constexpr (kBlocks > 3) _tile_zero(3);
}

template <int kBlocks>
void StoreSums(float* to) {
  constexpr int kSize = kTileRows * kPanel;
  _tile_stored(0, to, kTileBytes);
  if constexpr (kBlocks > 1) _tile_stored(1, to + kSize, kTileBytes);
  if constexpr (kBlocks > 2) _tile_stored(2, to + 2 * kSize, kTileBytes);
  if constexpr (kBlocks > 3) _tile_stored(3, to + 3 * kSize, kTileBytes);
  KeepMemory();
}

template <int kBlocks>
void AddStep(const uint16_t* packed, const uint32_t* weights) {
  constexpr int kSize = kTileRows * kStep;
  KeepMemory();
  _tile_loadd(7, weights, kTileBytes);
  _tile_loadd(4, packed, kTileBytes);
  _tile_dpbf16ps(0, 4, 7);
  if constexpr (kBlocks > 1) {
    _tile_loadd(5, packed + kSize, kTileBytes);
    _tile_dpbf16ps(1, 5, 7);
  }
  if constexpr (kBlocks == 3) {
    _tile_loadd(6, packed + 2 * kSize, kTileBytes);
    _tile_dpbf16ps(2, 6, 7);
  }
  if constexpr (kBlocks == 4) {
    _tile_loadd(4, packed + 2 * kSize, kTileBytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(6, packed + 3 * kSize, kTileBytes);
    _tile_dpbf16ps(3, 6, 7);
  }
}

void Write(const TileArgs& args, const float* totals) {
  auto* out = static_cast<uint16_t*>(args.out);
  const auto valid = static_cast<__mmask16>((1u << args.num_valid) - 1);
  for (int64_t r = 0; r < args.num_rows; ++r) {
    const __m512 row = _mm512_load_ps(totals + r * kPanel);
    const auto narrow = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(row));
    _mm256_mask_storeu_epi16(out, valid, narrow);
    out += args.out_stride;
  }
}

// Adds a group's sums, times its scale, to the totals.
void Scale(const TileArgs& args, int64_t group, const float* sums, float* totals) {
  if (args.num_groups == 0) {
    std::memcpy(totals, sums, sizeof(float) * args.num_rows * kPanel);
    return;
  }
  const __m512 scale = _mm512_loadu_ps(args.scale + group * kPanel);
  for (int64_t i = 0; i < args.num_rows * kPanel; i += kPanel) {
    const __m512 scaled = _mm512_mul_ps(_mm512_load_ps(sums + i), scale);
    const __m512 before = group ? _mm512_load_ps(totals + i) : _mm512_setzero_ps();
    _mm512_store_ps(totals + i, _mm512_add_ps(before, scaled));
  }
}

template <WeightKind kKind, int kBlocks>
void Multiply(const TileArgs& args) {
  alignas(64) float sums[kMaxRows * kPanel];
  alignas(64) float totals[kMaxRows * kPanel];
  // The next step's tile is converted while this one is multiplied.
  alignas(64) uint32_t made[2 * kTilePairs];
  const Tiles<kKind> tiles(args);
  const auto* packed = reinterpret_cast<const uint16_t*>(args.packed);
  auto* kept = reinterpret_cast<uint32_t*>(args.kept);
  const auto place = [&](int64_t step) {
    return kept ? kept + step * kTilePairs : made + step % 2 * kTilePairs;
  };
  const int64_t num_steps = args.num_contracted / kStep;
  const int64_t num_groups = args.num_groups ? args.num_groups : 1;
  const bool makes = kept == nullptr || !args.is_kept;
  const TileShapes shapes(args.num_rows);
  KeepMemory();
  _tile_loadconfig(&shapes);
  if (makes) tiles.Make(0, place(0));
  int64_t step = 0;
  for (int64_t group = 0; group < num_groups; ++group) {
    ZeroSums<kBlocks>();
    for (const int64_t end = (group + 1) * num_steps / num_groups; step < end; ++step) {
      if (makes && step + 1 < num_steps) tiles.Make(step + 1, place(step + 1));
      AddStep<kBlocks>(packed + step * args.num_rows * kStep, place(step));
    }
    StoreSums<kBlocks>(sums);
    Scale(args, group, sums, totals);
  }
  _tile_release();
  Write(args, totals);
}

template <WeightKind kKind>
void MultiplyKind(const TileArgs& args) {
  static constexpr std::array<void (*)(const TileArgs&), kMaxBlocks> kByBlocks = {
      Multiply<kKind, 1>, Multiply<kKind, 2>, Multiply<kKind, 3>, Multiply<kKind, 4>};
  kByBlocks[(args.num_rows - 1) / kTileRows](args);
}

void Tile(const TileArgs& args) {
  switch (args.kind) {
    case WeightKind::kBfloat16: return MultiplyKind<WeightKind::kBfloat16>(args);
    case WeightKind::kInt8: return MultiplyKind<WeightKind::kInt8>(args);
    case WeightKind::kInt4: return MultiplyKind<WeightKind::kInt4>(args);
  }
}

constexpr Multiplier kMultiplier = {kMaxRows, 2, PackTiles, Tile};

const Multiplier& MultiplierFor(const ProductShape& shape) {
  if (const Multiplier* few = FewRowsMultiplier(shape)) return *few;
  const int64_t group =
      shape.num_groups ? shape.num_contracted / shape.num_groups : shape.num_contracted;
  const bool fits = shape.number == Number::kBfloat16 && shape.num_rows >= kMinRows &&
                    group % kStep == 0;
  return fits ? kMultiplier : kAvx512Kernels.multiplier_for(shape);
}

void Attend(const AttendArgs& args) { kAvx512Kernels.attend(args); }

}  // namespace amx

const Kernels kAmxKernels = {"amx", amx::MultiplierFor, amx::Attend};
}  // namespace llmpq

// One token's attention over its cache, written once over a vector type; see tiles.h for
// how it is included.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "tiles.h"

namespace llmpq {
namespace LLMPQ_ISA {

constexpr int kHeadsAtOnce = 4;

// The products of one key with the queries of kHeads heads, into `scores`.
template <int kHeads, class T>
void Score(const float* query, const T* key, int64_t size, float* scores) {
  Vector sums[kHeads];
  for (auto& sum : sums) sum = Vector::Zero();
  int64_t h = 0;
  for (; h + Vector::kLanes <= size; h += Vector::kLanes) {
    const Vector part = Vector::Load(key + h);
    for (int j = 0; j < kHeads; ++j) {
      sums[j] = Vector::Fma(Vector::Load(query + j * size + h), part, sums[j]);
    }
  }
  for (int j = 0; j < kHeads; ++j) scores[j] = sums[j].Sum();
  for (; h < size; ++h) {
    const float part = ToFloat(key[h]);
    for (int j = 0; j < kHeads; ++j) scores[j] += query[j * size + h] * part;
  }
}

// Adds to each head's mix the values of some slots, weighted; weights of a slot are
// `row` apart from those of the next.
template <int kHeads, class T>
void Mix(const float* weights, int64_t row, const T* values, int64_t stride,
         int64_t slots, int64_t size, float* mixed) {
  int64_t h = 0;
  constexpr int kWide = 2;
  for (; h + kWide * Vector::kLanes <= size; h += kWide * Vector::kLanes) {
    Vector sums[kHeads][kWide];
    for (int j = 0; j < kHeads; ++j) {
      for (int v = 0; v < kWide; ++v) {
        sums[j][v] = Vector::Load(mixed + j * size + h + v * Vector::kLanes);
      }
    }
    for (int64_t s = 0; s < slots; ++s) {
      Vector value[kWide];
      for (int v = 0; v < kWide; ++v) {
        value[v] = Vector::Load(values + s * stride + h + v * Vector::kLanes);
      }
      for (int j = 0; j < kHeads; ++j) {
        const Vector weight = Vector::Broadcast(weights[s * row + j]);
        for (int v = 0; v < kWide; ++v) {
          sums[j][v] = Vector::Fma(weight, value[v], sums[j][v]);
        }
      }
    }
    for (int j = 0; j < kHeads; ++j) {
      for (int v = 0; v < kWide; ++v) {
        sums[j][v].Store(mixed + j * size + h + v * Vector::kLanes);
      }
    }
  }
  for (; h < size; ++h) {
    for (int j = 0; j < kHeads; ++j) {
      for (int64_t s = 0; s < slots; ++s) {
        mixed[j * size + h] += weights[s * row + j] * ToFloat(values[s * stride + h]);
      }
    }
  }
}

// Calls four(first) for each run of four heads, then one(first) for each head left.
template <class Four, class One>
void InRuns(int64_t heads, Four four, One one) {
  int64_t j = 0;
  for (; j + kHeadsAtOnce <= heads; j += kHeadsAtOnce) four(j);
  for (; j < heads; ++j) one(j);
}

// Puts a new token's heads into the cache.
template <class T>
void Store(const T* from, int64_t heads, int64_t size, T* to, float*) {
  std::memcpy(to, from, static_cast<size_t>(heads * size) * sizeof(T));
}

template <class T>
void Store(const T* from, int64_t heads, int64_t size, int8_t* to, float* scales) {
  for (int64_t k = 0; k < heads; ++k) {
    float magnitude = 0;
    for (int64_t h = 0; h < size; ++h) {
      const float size_here = std::fabs(ToFloat(from[k * size + h]));
      magnitude = size_here > magnitude ? size_here : magnitude;
    }
    const float scale = magnitude * (1.0f / 127.0f);
    scales[k] = scale >= FLT_MIN ? scale : 1.0f;
    const float reciprocal = 1.0f / scales[k];
    for (int64_t h = 0; h < size; ++h) {
      const float quotient = ToFloat(from[k * size + h]) * reciprocal;
      const float within = quotient > 127.0f ? 127.0f : quotient > -127.0f ? quotient : -127.0f;
      constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
      to[k * size + h] = static_cast<int8_t>((within + kShift) - kShift);
    }
  }
}

// Softmax over slots takes one pass: the sum so far is rescaled when a larger score is
// found (Milakov and Gimelshein, arXiv 1805.02867). All heads go through the slots
// together, so that keys and values are read in the order of memory.
// T is the type of the new token, C that of the cache.
template <class T, class C>
void AttendAs(const AttendArgs& args) {
  constexpr bool kIsRounded = std::is_same_v<C, int8_t>;
  const int64_t shared = args.num_shared, size = args.head_dim;
  const int64_t heads = args.num_kv_heads * shared, row = PaddedHeads(heads);
  const int64_t stride = args.all_kv_heads * size, kv_size = args.num_kv_heads * size;
  C* keys = static_cast<C*>(args.keys);
  C* values = static_cast<C*>(args.values);
  const auto put = [&](const void* token, C* cache, float* scales) {
    float* own = kIsRounded ? scales + args.position * args.all_kv_heads : nullptr;
    Store(static_cast<const T*>(token), args.num_kv_heads, size,
          cache + args.position * stride, own);
  };
  put(args.new_key, keys, args.key_scales);
  put(args.new_value, values, args.value_scales);

  float* query = args.scratch;                 // [heads, size]
  float* mixed = query + heads * size;         // [heads, size]
  float* scores = mixed + heads * size;        // [kSlotsAtOnce, row]
  float* largest = scores + kSlotsAtOnce * row;  // [row], like the next two
  float* mass = largest + row;
  float* shrink = mass + row;
  const float unit = 1.0f / std::sqrt(static_cast<float>(size));
  for (int64_t i = 0; i < heads * size; ++i) {
    query[i] = ToFloat(static_cast<const T*>(args.query)[i]) * unit;
    mixed[i] = 0;
  }
  for (int64_t i = 0; i < kSlotsAtOnce * row; ++i) scores[i] = 0;
  for (int64_t n = 0; n < row; ++n) largest[n] = -FLT_MAX, mass[n] = 0;

  for (int64_t start = args.first_slot; start <= args.position; start += kSlotsAtOnce) {
    const int64_t left = args.position + 1 - start;
    const int64_t slots = left < kSlotsAtOnce ? left : kSlotsAtOnce;
    for (int64_t s = 0; s < slots; ++s) {
      const C* key = keys + (start + s) * stride;
      const char* later = reinterpret_cast<const char*>(values + (start + s) * stride);
      for (int64_t byte = 0; byte < kv_size * static_cast<int64_t>(sizeof(C)); byte += 64) {
        __builtin_prefetch(later + byte);
      }
      for (int64_t k = 0; k < args.num_kv_heads; ++k) {
        const float* own = query + k * shared * size;
        float* to = scores + s * row + k * shared;
        InRuns(
            shared,
            [&](int64_t j) { Score<kHeadsAtOnce>(own + j * size, key + k * size, size, to + j); },
            [&](int64_t j) { Score<1>(own + j * size, key + k * size, size, to + j); });
        if constexpr (kIsRounded) {
          const float scale = args.key_scales[(start + s) * args.all_kv_heads + k];
          for (int64_t j = 0; j < shared; ++j) to[j] *= scale;
        }
      }
      if (args.slopes) {
        const float behind = static_cast<float>(start + s - args.position);
        for (int64_t n = 0; n < heads; ++n) scores[s * row + n] += args.slopes[n] * behind;
      }
    }
    for (int64_t n = 0; n < row; n += Vector::kLanes) {
      const Vector before = Vector::Load(largest + n);
      Vector top = before;
      for (int64_t s = 0; s < slots; ++s) {
        top = Vector::Max(top, Vector::Load(scores + s * row + n));
      }
      Vector sum = Vector::Zero();
      for (int64_t s = 0; s < slots; ++s) {
        const Vector weight = Vector::Exp(Vector::Load(scores + s * row + n) - top);
        weight.Store(scores + s * row + n);
        sum = sum + weight;
      }
      const Vector less = Vector::Exp(before - top);
      less.Store(shrink + n);
      top.Store(largest + n);
      Vector::Fma(Vector::Load(mass + n), less, sum).Store(mass + n);
    }
    for (int64_t n = 0; n < heads; ++n) {
      if (shrink[n] == 1) continue;
      for (int64_t h = 0; h < size; ++h) mixed[n * size + h] *= shrink[n];
    }
    for (int64_t k = 0; k < args.num_kv_heads; ++k) {
      const C* value = values + start * stride + k * size;
      float* weights = scores + k * shared;
      if constexpr (kIsRounded) {
        for (int64_t s = 0; s < slots; ++s) {
          const float scale = args.value_scales[(start + s) * args.all_kv_heads + k];
          for (int64_t j = 0; j < shared; ++j) weights[s * row + j] *= scale;
        }
      }
      float* own = mixed + k * shared * size;
      InRuns(
          shared,
          [&](int64_t j) {
            Mix<kHeadsAtOnce>(weights + j, row, value, stride, slots, size, own + j * size);
          },
          [&](int64_t j) {
            Mix<1>(weights + j, row, value, stride, slots, size, own + j * size);
          });
    }
  }
  T* out = static_cast<T*>(args.out);
  for (int64_t n = 0; n < heads; ++n) {
    for (int64_t h = 0; h < size; ++h) {
      StoreNumber(mixed[n * size + h] / mass[n], out + n * size + h);
    }
  }
}

template <class T>
void AttendFrom(const AttendArgs& args) {
  args.key_scales ? AttendAs<T, int8_t>(args) : AttendAs<T, T>(args);
}

inline void Attend(const AttendArgs& args) {
  args.number == Number::kFloat32 ? AttendFrom<float>(args) : AttendFrom<uint16_t>(args);
}

}  // namespace LLMPQ_ISA
}  // namespace llmpq

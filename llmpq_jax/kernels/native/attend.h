// One token's attention over its cache, written once over a vector type; see tiles.h for
// how it is included.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

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

// Calls with<count>(first) for runs of heads: as many fours as there are, then ones.
template <class Four, class One>
void InRuns(int64_t heads, Four four, One one) {
  int64_t j = 0;
  for (; j + kHeadsAtOnce <= heads; j += kHeadsAtOnce) four(j);
  for (; j < heads; ++j) one(j);
}

// Softmax over slots is taken in one pass: what was mixed so far is rescaled when a
// larger score comes (Milakov and Gimelshein, arXiv 1805.02867). All heads go through the
// slots together, so that keys and values are read in the order they lie in.
template <class T>
void AttendAs(const AttendArgs& args) {
  const int64_t shared = args.num_shared, size = args.head_dim;
  const int64_t heads = args.num_kv_heads * shared, row = PaddedHeads(heads);
  const int64_t stride = args.slot_stride, kv_size = args.num_kv_heads * size;
  T* keys = static_cast<T*>(args.keys);
  T* values = static_cast<T*>(args.values);
  std::memcpy(keys + args.position * stride, args.new_key, kv_size * sizeof(T));
  std::memcpy(values + args.position * stride, args.new_value, kv_size * sizeof(T));

  float* query = args.scratch;                 // [heads, size]
  float* mixed = query + heads * size;         // [heads, size]
  float* scores = mixed + heads * size;        // [kSlotsAtOnce, row]
  float* largest = scores + kSlotsAtOnce * row;  // [row], as the next two
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
      const T* key = keys + (start + s) * stride;
      const char* later = reinterpret_cast<const char*>(values + (start + s) * stride);
      for (int64_t byte = 0; byte < kv_size * static_cast<int64_t>(sizeof(T)); byte += 64) {
        __builtin_prefetch(later + byte);
      }
      for (int64_t k = 0; k < args.num_kv_heads; ++k) {
        const float* own = query + k * shared * size;
        float* to = scores + s * row + k * shared;
        InRuns(
            shared,
            [&](int64_t j) { Score<kHeadsAtOnce>(own + j * size, key + k * size, size, to + j); },
            [&](int64_t j) { Score<1>(own + j * size, key + k * size, size, to + j); });
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
      const T* value = values + start * stride + k * size;
      const float* weights = scores + k * shared;
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

inline void Attend(const AttendArgs& args) {
  if (args.number == Number::kFloat32) {
    AttendAs<float>(args);
  } else {
    AttendAs<uint16_t>(args);
  }
}

}  // namespace LLMPQ_ISA
}  // namespace llmpq

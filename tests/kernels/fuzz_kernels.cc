// Calls the kernels with random shapes in memory of exactly the right size, and compares
// with sums in double. Built with sanitizers by test_sanitized.py: any step outside an
// array ends the program.
//
//   fuzz_kernels COUNT SEED
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels.h"
#include "rounding.h"

namespace {

using llmpq::kPanel;
using llmpq::kRowsPerWord;
using llmpq::Kernels;
using llmpq::Multiplier;
using llmpq::Number;
using llmpq::WeightKind;

std::mt19937 generator;

int64_t Draw(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(generator);
}

float DrawNumber() { return std::normal_distribution<float>()(generator); }

// On the heap with exactly this length: memory after its end is poisoned.
template <class T>
std::unique_ptr<T[]> Exactly(int64_t count) {
  return std::unique_ptr<T[]>(new T[count]());
}

void Fail(const char* what, double found, double expected) {
  std::fprintf(stderr, "%s: found %g, expected %g\n", what, found, expected);
  std::exit(1);
}

uint16_t Narrow(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

float Widen(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}

void FuzzProduct(const Kernels& kernels) {
  const WeightKind kinds[] = {WeightKind::kBfloat16, WeightKind::kInt8, WeightKind::kInt4};
  const WeightKind kind = kinds[Draw(0, 2)];
  const bool is_int4 = kind == WeightKind::kInt4, is_narrow = Draw(0, 1);
  const int64_t groups = is_int4 ? Draw(1, 4) : kind == WeightKind::kInt8 ? 1 : 0;
  // Some kernels are for whole steps of 32 contracted rows.
  const int64_t group = Draw(0, 1) ? 32 * Draw(1, 4)
                        : is_int4  ? kRowsPerWord * Draw(1, 6)
                                   : Draw(1, 70);
  const int64_t contracted = groups ? groups * group : group;
  const int64_t valid = Draw(1, kPanel), stride = valid + Draw(0, 5);
  const Number number = is_narrow ? Number::kBfloat16 : Number::kFloat32;
  const int64_t wanted = Draw(0, 1) ? Draw(1, 3) : Draw(1, 80);
  const Multiplier& multiplier =
      kernels.multiplier_for({kind, number, wanted, contracted, groups});
  const int64_t rows = std::min(wanted, multiplier.max_rows);

  auto wide = Exactly<float>(rows * contracted);
  auto narrow = Exactly<uint16_t>(rows * contracted);
  for (int64_t i = 0; i < rows * contracted; ++i) {
    narrow[i] = Narrow(DrawNumber());
    wide[i] = is_narrow ? Widen(narrow[i]) : DrawNumber();
  }
  // What the weights are, in units of their scales.
  std::vector<double> exact(contracted * kPanel);
  auto halves = Exactly<uint16_t>(contracted * kPanel);
  auto bytes = Exactly<int8_t>(contracted * kPanel);
  auto words = Exactly<uint32_t>(is_int4 ? contracted / kRowsPerWord * kPanel : 0);
  for (int64_t c = 0; c < contracted; ++c) {
    for (int f = 0; f < kPanel; ++f) {
      const int64_t i = c * kPanel + f;
      if (kind == WeightKind::kBfloat16) {
        halves[i] = Narrow(DrawNumber());
        exact[i] = Widen(halves[i]);
        continue;
      }
      const int value = static_cast<int>(is_int4 ? Draw(-7, 7) : Draw(-127, 127));
      exact[i] = value;
      bytes[i] = static_cast<int8_t>(value);
      if (!is_int4) continue;
      const int64_t row = c % kRowsPerWord;
      const uint32_t nibble = (row + 1 < kRowsPerWord ? value + 8 : value) & 15;
      words[c / kRowsPerWord * kPanel + f] |= nibble << (4 * row);
    }
  }
  auto scale = Exactly<float>(groups * kPanel);
  for (int64_t i = 0; i < groups * kPanel; ++i) scale[i] = std::abs(DrawNumber());
  auto packed = Exactly<float>(llmpq::PackedFloats(rows, contracted));
  auto sums = Exactly<float>(llmpq::SumFloats(rows, groups));
  const void* hidden = is_narrow ? static_cast<const void*>(narrow.get()) : wide.get();
  multiplier.pack({hidden, number, kind, rows, contracted, groups, packed.get(), sums.get()});
  const int64_t out_count = (rows - 1) * stride + valid;
  auto out = Exactly<float>(out_count);
  auto narrow_out = Exactly<uint16_t>(out_count);
  const void* values = is_int4 ? static_cast<const void*>(words.get()) : bytes.get();
  if (kind == WeightKind::kBfloat16) values = halves.get();
  void* result = is_narrow ? static_cast<void*>(narrow_out.get()) : out.get();
  auto kept = Exactly<float>(contracted * kPanel);
  const bool keeps = Draw(0, 1);
  for (int turn = 0; turn < (keeps ? 2 : 1); ++turn) {
    multiplier.tile({kind, rows, contracted, groups, packed.get(), sums.get(), values,
                  scale.get(), result, number, stride, valid,
                  keeps ? kept.get() : nullptr, turn == 1});
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t f = 0; f < valid; ++f) {
      double expected = 0, magnitude = 0;
      for (int64_t c = 0; c < contracted; ++c) {
        const double step =
            groups ? scale[c / (contracted / groups) * kPanel + f] : 1.0;
        const double product = step * wide[r * contracted + c];
        expected += product * exact[c * kPanel + f];
        magnitude += std::abs(product) * (std::abs(exact[c * kPanel + f]) + 16);
      }
      const double found =
          is_narrow ? Widen(narrow_out[r * stride + f]) : out[r * stride + f];
      const double bound = (contracted + 8) * 0x1p-24 * magnitude +
                           (is_narrow ? 0x1p-8 * std::abs(expected) : 0) + 1e-30;
      if (!(std::abs(found - expected) <= 1.01 * bound)) Fail("product", found, expected);
    }
  }
}

void FuzzAttention(const Kernels& kernels) {
  const int64_t kv_heads = Draw(1, 3), shared = Draw(1, 6), size = Draw(1, 40);
  const int64_t heads = kv_heads * shared, kv_size = kv_heads * size;
  const int64_t slots = Draw(1, 100), stride = kv_size + size * Draw(0, 2);
  const int64_t position = Draw(0, slots - 1), first = Draw(0, 3) ? 0 : Draw(0, position);
  const int64_t cached = (slots - 1) * stride + kv_size;
  const int64_t all_kv_heads = stride / size;
  const bool is_rounded = Draw(0, 1);
  const int64_t num_scales = is_rounded ? (slots - 1) * all_kv_heads + kv_heads : 0;
  auto query = Exactly<float>(heads * size), key = Exactly<float>(kv_size);
  auto value = Exactly<float>(kv_size), keys = Exactly<float>(cached);
  auto values = Exactly<float>(cached), out = Exactly<float>(heads * size);
  auto slopes = Exactly<float>(heads);
  auto rounded_keys = Exactly<int8_t>(cached), rounded_values = Exactly<int8_t>(cached);
  auto key_scales = Exactly<float>(num_scales), value_scales = Exactly<float>(num_scales);
  auto scratch = Exactly<float>(llmpq::AttendScratch(heads, size));
  for (int64_t i = 0; i < heads * size; ++i) query[i] = DrawNumber();
  for (int64_t i = 0; i < kv_size; ++i) key[i] = DrawNumber(), value[i] = DrawNumber();
  for (int64_t i = 0; i < cached; ++i) keys[i] = DrawNumber(), values[i] = DrawNumber();
  for (int64_t i = 0; i < heads; ++i) slopes[i] = Draw(0, 8) / 8.0f;
  if (is_rounded) {
    for (int64_t i = 0; i < num_scales; ++i) {
      key_scales[i] = Draw(1, 8) / 256.0f, value_scales[i] = Draw(1, 8) / 256.0f;
    }
    for (int64_t i = 0; i < cached; ++i) {
      rounded_keys[i] = static_cast<int8_t>(Draw(-127, 127));
      rounded_values[i] = static_cast<int8_t>(Draw(-127, 127));
    }
  }
  kernels.attend({query.get(), key.get(), value.get(),
                  is_rounded ? static_cast<void*>(rounded_keys.get()) : keys.get(),
                  is_rounded ? static_cast<void*>(rounded_values.get()) : values.get(),
                  is_rounded ? key_scales.get() : nullptr,
                  is_rounded ? value_scales.get() : nullptr, Number::kFloat32,
                  slopes.get(), kv_heads, shared, size, all_kv_heads, position, first,
                  out.get(), scratch.get()});
  if (is_rounded) {
    for (int64_t i = 0; i < cached; ++i) {
      const int64_t scale = i / stride * all_kv_heads + i % stride / size;
      if (scale >= num_scales) continue;
      keys[i] = static_cast<float>(rounded_keys[i]) * key_scales[scale];
      values[i] = static_cast<float>(rounded_values[i]) * value_scales[scale];
    }
    for (int64_t i = 0; i < kv_size; ++i) {
      const float step = key_scales[position * all_kv_heads + i / size];
      const float found = keys[position * stride + i];
      if (!(std::abs(found - key[i]) <= 0.5001f * step)) Fail("key", found, key[i]);
    }
  }
  for (int64_t n = 0; n < heads; ++n) {
    const int64_t own = n / shared * size;
    std::vector<double> mixed(size);
    double mass = 0;
    for (int64_t s = first; s <= position; ++s) {
      double score = slopes[n] * static_cast<double>(s - position);
      for (int64_t h = 0; h < size; ++h) {
        score += query[n * size + h] * static_cast<double>(keys[s * stride + own + h]) /
                 std::sqrt(static_cast<double>(size));
      }
      const double weight = std::exp(score);
      mass += weight;
      for (int64_t h = 0; h < size; ++h) {
        mixed[h] += weight * values[s * stride + own + h];
      }
    }
    for (int64_t h = 0; h < size; ++h) {
      const double expected = mixed[h] / mass, found = out[n * size + h];
      if (!(std::abs(found - expected) <= 1e-4)) Fail("attention", found, expected);
    }
  }
}

void FuzzRounding() {
  const bool is_int4 = Draw(0, 1);
  const int64_t groups = is_int4 ? Draw(1, 4) : 1;
  const int64_t group = is_int4 ? kRowsPerWord * Draw(1, 20) : Draw(1, 150);
  const int64_t contracted = groups * group, valid = Draw(1, kPanel);
  auto weight = Exactly<float>(valid * contracted);
  for (int64_t i = 0; i < valid * contracted; ++i) weight[i] = DrawNumber();
  auto bytes = Exactly<int8_t>(is_int4 ? 0 : contracted * kPanel);
  auto words = Exactly<uint32_t>(is_int4 ? contracted / kRowsPerWord * kPanel : 0);
  auto scale = Exactly<float>(groups * kPanel);
  const llmpq::Rounding rounding = {contracted, group, is_int4 ? 7.0f : 127.0f};
  void* const values = is_int4 ? static_cast<void*>(words.get()) : bytes.get();
  llmpq::RoundPanel(weight.get(), valid, rounding,
                    is_int4 ? llmpq::PutInt4 : llmpq::PutInt8, values, scale.get());
  for (int64_t c = 0; c < contracted; ++c) {
    for (int64_t f = 0; f < valid; ++f) {
      const float step = scale[c / group * kPanel + f];
      int value = is_int4 ? 0 : bytes[c * kPanel + f];
      if (is_int4) {
        const int64_t row = c % kRowsPerWord;
        value = words[c / kRowsPerWord * kPanel + f] >> (4 * row) & 15;
        value = row + 1 < kRowsPerWord ? value - 8 : (value ^ 8) - 8;
      }
      const double expected = weight[f * contracted + c];
      if (!(std::abs(value * static_cast<double>(step) - expected) <= 0.5001 * step)) {
        Fail("rounding", value * step, expected);
      }
    }
  }
}

void Fuzz(const Kernels& kernels, int count) {
  for (int i = 0; i < count; ++i) {
    FuzzProduct(kernels);
    FuzzAttention(kernels);
  }
  std::printf("%s: %d products and mixes agree\n", kernels.name, count);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "expected a count and a seed\n");
    return 2;
  }
  generator.seed(static_cast<unsigned>(std::atoll(argv[2])));
  const int count = std::atoi(argv[1]);
  for (int i = 0; i < count; ++i) FuzzRounding();
  for (const Kernels* kernels : llmpq::KernelsHere()) Fuzz(*kernels, count);
}

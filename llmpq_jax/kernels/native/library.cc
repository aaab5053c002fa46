// The functions that XLA calls: they check shapes, choose kernels, and distribute work.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <unistd.h>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llmpq {
namespace {

namespace ffi = xla::ffi;

// Tasks for each thread: enough that the last one to be claimed is a small share of all.
constexpr int64_t kTasksPerThread = 6;

// LLMPQ_JAX_KERNELS may name other kernels than the fastest. Null: the processor lacks them.
const Kernels* ChooseKernels() {
  const std::vector<const Kernels*> here = KernelsHere();
  const char* wish = std::getenv("LLMPQ_JAX_KERNELS");
  if (wish == nullptr || *wish == 0) return here.back();
  for (const Kernels* kernels : here) {
    if (std::strcmp(wish, kernels->name) == 0) return kernels;
  }
  return nullptr;
}

// Packed hidden states that are multiplied together: half of a core's second-level cache,
// which holds a panel's kept weights as well.
int64_t PackedBytesAtOnce() {
  constexpr int64_t kLeast = 192 << 10;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const int64_t half = sysconf(_SC_LEVEL2_CACHE_SIZE) / 2;
  return std::max(kLeast, half);
#else
  return kLeast;
#endif
}

const Kernels* Chosen() {
  static const Kernels* const kernels = ChooseKernels();
  return kernels;
}

ffi::Error Refuse(const std::string& what) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "llmpq_jax kernels: " + what);
}

bool IsNumber(ffi::DataType type) {
  return type == ffi::DataType::F32 || type == ffi::DataType::BF16;
}

Number NumberOf(ffi::DataType type) {
  return type == ffi::DataType::F32 ? Number::kFloat32 : Number::kBfloat16;
}

bool KindOf(ffi::DataType type, WeightKind* kind) {
  if (type == ffi::DataType::BF16) return *kind = WeightKind::kBfloat16, true;
  if (type == ffi::DataType::S8) return *kind = WeightKind::kInt8, true;
  return *kind = WeightKind::kInt4, type == ffi::DataType::U32;
}

int64_t SizeOf(Number number) { return number == Number::kFloat32 ? 4 : 2; }

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows in blocks of nearly equal height.
struct RowBlocks {
  int64_t num_rows;
  int64_t count;
  RowBlocks(int64_t rows, int64_t most) : num_rows(rows), count(CeilDiv(rows, most)) {}
  int64_t First(int64_t block) const { return block * num_rows / count; }
  int64_t Size(int64_t block) const { return First(block + 1) - First(block); }
};

struct Weight {
  WeightKind kind;
  const char* values;
  const float* scale;
  int64_t num_panels;
  int64_t num_groups;
  int64_t panel_bytes;
  char* out;
  int64_t num_features;
};

// A thread's buffer for one panel's weights as a multiplier reads them; row blocks after
// the first read them from there.
float* KeptPanel(int64_t contracted) {
  struct alignas(64) Features {
    float number[kPanel];
  };
  thread_local std::vector<Features> kept;
  if (kept.size() < static_cast<size_t>(contracted)) kept.resize(contracted);
  return kept.data()->number;
}

// hidden [M, C]; then values and scale of each weight (see kernels.h). Returns for each
// weight its product [M, F], and last the memory of the packed rows.
ffi::Error Product(ffi::ThreadPool pool, ffi::AnyBuffer hidden, ffi::RemainingArgs args,
                   ffi::RemainingRets rets) {
  if (hidden.dimensions().size() != 2 || !IsNumber(hidden.element_type())) {
    return Refuse("hidden states must be float32 or bfloat16 of two axes");
  }
  const int64_t num_rows = hidden.dimensions()[0];
  const int64_t contracted = hidden.dimensions()[1];
  const Number number = NumberOf(hidden.element_type());
  const size_t num_weights = args.size() / 2;
  if (num_weights == 0 || args.size() != 2 * num_weights ||
      rets.size() != num_weights + 1) {
    return Refuse("expected values, scale and a product for each weight");
  }
  std::vector<Weight> weights;
  for (size_t w = 0; w < num_weights; ++w) {
    auto values = args.get<ffi::AnyBuffer>(2 * w);
    auto scale = args.get<ffi::AnyBuffer>(2 * w + 1);
    auto out = rets.get<ffi::AnyBuffer>(w);
    if (!values || !scale || !out) return Refuse("a weight or product is no array");
    const auto values_shape = values->dimensions(), scale_shape = scale->dimensions(),
               out_shape = (*out)->dimensions();
    if (values_shape.size() != 3 || scale_shape.size() != 3 || out_shape.size() != 2 ||
        values_shape[2] != kPanel || scale_shape[2] != kPanel ||
        values_shape[0] != scale_shape[0] ||
        scale->element_type() != ffi::DataType::F32 ||
        (*out)->element_type() != hidden.element_type() || out_shape[0] != num_rows ||
        CeilDiv(out_shape[1], kPanel) != values_shape[0]) {
      return Refuse("shapes of a weight, its scale and its product do not agree");
    }
    Weight weight;
    if (!KindOf(values->element_type(), &weight.kind)) {
      return Refuse("values must be bfloat16, int8, or int4 in words of uint32");
    }
    const bool is_int4 = weight.kind == WeightKind::kInt4;
    weight.values = static_cast<const char*>(values->untyped_data());
    weight.scale = static_cast<const float*>(scale->untyped_data());
    weight.num_panels = values_shape[0];
    weight.num_groups = scale_shape[1];
    weight.panel_bytes =
        static_cast<int64_t>(values->size_bytes()) / std::max<int64_t>(1, values_shape[0]);
    weight.out = static_cast<char*>((*out)->untyped_data());
    weight.num_features = out_shape[1];
    const int64_t held = values_shape[1] * (is_int4 ? kRowsPerWord : 1);
    const int64_t group = weight.num_groups ? contracted / weight.num_groups : 0;
    const bool has_groups =
        is_int4 ? group * weight.num_groups == contracted && group % kRowsPerWord == 0 &&
                      group > 0
                : weight.num_groups == (weight.kind == WeightKind::kInt8 ? 1 : 0);
    if (held != contracted || !has_groups) {
      return Refuse("a weight's rows or groups do not match the hidden states");
    }
    if (w > 0 && (weight.kind != weights[0].kind ||
                  weight.num_groups != weights[0].num_groups)) {
      return Refuse("weights multiplied together must be of one kind and group size");
    }
    weights.push_back(weight);
  }
  if (num_rows == 0 || contracted == 0) return Refuse("there is nothing to multiply");

  const WeightKind kind = weights[0].kind;
  const int64_t num_groups = weights[0].num_groups;
  auto scratch = rets.get<ffi::AnyBuffer>(num_weights);
  const int64_t num_floats =
      PackedFloats(num_rows, contracted) + SumFloats(num_rows, num_groups);
  if (!scratch || (*scratch)->element_type() != ffi::DataType::F32 ||
      static_cast<int64_t>((*scratch)->element_count()) < num_floats) {
    return Refuse("too little memory for packed rows");
  }
  float* packed = static_cast<float*>((*scratch)->untyped_data());
  float* sums = packed + PackedFloats(num_rows, contracted);

  const Multiplier& multiplier =
      Chosen()->multiplier_for({kind, number, num_rows, contracted, num_groups});
  const RowBlocks blocks(num_rows, multiplier.max_rows);
  const auto pack = [&](int64_t block) {
    const int64_t first = blocks.First(block);
    multiplier.pack({static_cast<const char*>(hidden.untyped_data()) +
                      first * contracted * SizeOf(number),
                  number, kind, blocks.Size(block), contracted, num_groups,
                  packed + PackedFloats(first, contracted),
                  sums + SumFloats(first, num_groups)});
  };
  if (blocks.count == 1) {
    pack(0);
  } else {
    ParallelFor(pool, blocks.count, pack);
  }

  int64_t num_panels = 0;
  for (const Weight& weight : weights) num_panels += weight.num_panels;
  const int64_t block_bytes =
      multiplier.max_rows * contracted * multiplier.packed_bytes;
  const int64_t blocks_at_once =
      std::max<int64_t>(1, PackedBytesAtOnce() / block_bytes);
  const int64_t num_row_tasks = CeilDiv(blocks.count, blocks_at_once);
  const int64_t num_threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t panels_at_once = std::clamp<int64_t>(
      num_panels * num_row_tasks / (num_threads * kTasksPerThread), 1, num_panels);
  const int64_t num_panel_tasks = CeilDiv(num_panels, panels_at_once);
  ParallelFor(pool, num_row_tasks * num_panel_tasks, [&](int64_t task) {
    const int64_t first_block = task / num_panel_tasks * blocks_at_once;
    const int64_t end_block = std::min(blocks.count, first_block + blocks_at_once);
    const int64_t first_panel = task % num_panel_tasks * panels_at_once;
    const int64_t end_panel = std::min(num_panels, first_panel + panels_at_once);
    float* kept = end_block - first_block > 1 ? KeptPanel(contracted) : nullptr;
    int64_t start = 0;  // panel at which the weight begins
    for (const Weight& weight : weights) {
      const int64_t from = std::max(first_panel, start) - start;
      const int64_t end = std::min(end_panel, start + weight.num_panels) - start;
      for (int64_t panel = from; panel < end; ++panel) {
        for (int64_t block = first_block; block < end_block; ++block) {
          const int64_t row = blocks.First(block);
          const int64_t feature = panel * kPanel;
          multiplier.tile({kind, blocks.Size(block), contracted, num_groups,
                        packed + PackedFloats(row, contracted),
                        sums + SumFloats(row, num_groups),
                        weight.values + panel * weight.panel_bytes,
                        weight.scale + feature * num_groups,
                        weight.out + (row * weight.num_features + feature) * SizeOf(number),
                        number, weight.num_features,
                        std::min<int64_t>(kPanel, weight.num_features - feature), kept,
                        block > first_block});
        }
      }
      start += weight.num_panels;
    }
  });
  return ffi::Error::Success();
}

// query [B, N, H], new key and value [B, K, H], caches [B, S, K, H] of the same type or of
// int8, their scales [B, S, K, 1] if they are of int8 and else [0], position [B] int32,
// ALiBi slopes [N] or [0]. Returns the mix [B, N, H], the caches and scales with the new
// token in them (in place where XLA aliases them), and scratch memory.
ffi::Error Attend(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer new_key,
                  ffi::AnyBuffer new_value, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                  ffi::Buffer<ffi::F32> key_scales, ffi::Buffer<ffi::F32> value_scales,
                  ffi::Buffer<ffi::S32> position, ffi::Buffer<ffi::F32> slopes,
                  ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> new_keys,
                  ffi::Result<ffi::AnyBuffer> new_values,
                  ffi::Result<ffi::Buffer<ffi::F32>> new_key_scales,
                  ffi::Result<ffi::Buffer<ffi::F32>> new_value_scales,
                  ffi::Result<ffi::Buffer<ffi::F32>> scratch, int64_t window) {
  const auto query_shape = query.dimensions(), cache_shape = keys.dimensions();
  const auto type = query.element_type();
  if (query_shape.size() != 3 || cache_shape.size() != 4 || !IsNumber(type)) {
    return Refuse("expected a query of three axes and caches of four");
  }
  const int64_t num_rows = query_shape[0], num_heads = query_shape[1],
                head_dim = query_shape[2], num_slots = cache_shape[1],
                num_kv_heads = cache_shape[2];
  const bool is_rounded = keys.element_type() == ffi::DataType::S8;
  const auto is_new = [&](const ffi::AnyBuffer& array) {
    const auto shape = array.dimensions();
    return array.element_type() == type && shape.size() == 3 && shape[0] == num_rows &&
           shape[1] == num_kv_heads && shape[2] == head_dim;
  };
  const auto is_cache = [&](const ffi::AnyBuffer& array) {
    const auto shape = array.dimensions();
    return array.element_type() == (is_rounded ? ffi::DataType::S8 : type) &&
           shape == cache_shape;
  };
  const auto are_scales = [&](const ffi::Buffer<ffi::F32>& array) {
    return static_cast<int64_t>(array.element_count()) ==
           (is_rounded ? num_rows * num_slots * num_kv_heads : 0);
  };
  if (!is_new(new_key) || !is_new(new_value) || !is_cache(keys) || !is_cache(values) ||
      !is_cache(*new_keys) || !is_cache(*new_values) || !are_scales(key_scales) ||
      !are_scales(value_scales) || !are_scales(*new_key_scales) ||
      !are_scales(*new_value_scales) || cache_shape[0] != num_rows ||
      cache_shape[3] != head_dim || out->element_type() != type ||
      !(out->dimensions() == query_shape) || num_kv_heads == 0 ||
      num_heads % num_kv_heads != 0 || window < 0 ||
      static_cast<int64_t>(position.element_count()) != num_rows) {
    return Refuse("shapes of query, keys, values and positions do not agree");
  }
  const int64_t num_slopes = static_cast<int64_t>(slopes.element_count());
  if (num_slopes != 0 && num_slopes != num_heads) {
    return Refuse("expected a slope for each head, or none");
  }
  const int64_t shared = num_heads / num_kv_heads;
  // A row is one task, unless there are too few rows to keep all threads busy.
  const int64_t num_threads = std::max<int64_t>(1, pool.num_threads());
  const int64_t tasks_per_row = std::min(num_kv_heads, CeilDiv(2 * num_threads, num_rows));
  const int64_t row_floats = num_kv_heads * AttendScratch(shared, head_dim);
  if (static_cast<int64_t>(scratch->element_count()) < num_rows * row_floats) {
    return Refuse("too little memory for scores");
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    const int32_t at = position.typed_data()[row];
    if (at < 0 || at >= num_slots) {
      return Refuse("position " + std::to_string(at) + " is outside the cache's " +
                    std::to_string(num_slots) + " slots");
    }
  }
  const Number number = NumberOf(type);
  const int64_t size = SizeOf(number), cached_size = is_rounded ? 1 : size;
  const auto keep = [](const auto& before, const auto& after) {
    if (after.untyped_data() == before.untyped_data()) return;
    std::memcpy(after.untyped_data(), before.untyped_data(), before.size_bytes());
  };
  keep(keys, *new_keys);
  keep(values, *new_values);
  keep(key_scales, *new_key_scales);
  keep(value_scales, *new_value_scales);
  const Kernels& kernels = *Chosen();
  const auto at = [](const ffi::AnyBuffer& array, int64_t byte) {
    return static_cast<char*>(array.untyped_data()) + byte;
  };
  ParallelFor(pool, num_rows * tasks_per_row, [&](int64_t task) {
    const int64_t row = task / tasks_per_row, part = task % tasks_per_row;
    const int64_t first = part * num_kv_heads / tasks_per_row;
    const int64_t end = (part + 1) * num_kv_heads / tasks_per_row;
    const int64_t here = position.typed_data()[row];
    const int64_t kv_head = row * num_kv_heads + first, query_head = kv_head * shared;
    const int64_t slot = row * num_slots * num_kv_heads + first;
    kernels.attend({at(query, query_head * head_dim * size),
                    at(new_key, kv_head * head_dim * size),
                    at(new_value, kv_head * head_dim * size),
                    at(*new_keys, slot * head_dim * cached_size),
                    at(*new_values, slot * head_dim * cached_size),
                    is_rounded ? new_key_scales->typed_data() + slot : nullptr,
                    is_rounded ? new_value_scales->typed_data() + slot : nullptr, number,
                    num_slopes ? slopes.typed_data() + first * shared : nullptr,
                    end - first, shared, head_dim, num_kv_heads, here,
                    window && here >= window ? here - window + 1 : 0,
                    at(*out, query_head * head_dim * size),
                    scratch->typed_data() + row * row_floats +
                        first * AttendScratch(shared, head_dim)});
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llmpq

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(LlmpqProduct, llmpq::Product,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets());

XLA_FFI_DEFINE_HANDLER_SYMBOL(LlmpqAttend, llmpq::Attend,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Attr<int64_t>("window"));

// Name of the kernels that serve this processor; null if LLMPQ_JAX_KERNELS names others.
// To be called before any other function.
extern "C" const char* LlmpqKernelPath() {
  const llmpq::Kernels* kernels = llmpq::Chosen();
  return kernels ? kernels->name : nullptr;
}

#pragma GCC visibility pop

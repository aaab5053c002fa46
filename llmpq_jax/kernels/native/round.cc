// The function that XLA calls to round a checkpoint's matrix straight into panels, without
// intermediate copies.
#include <algorithm>
#include <cstdint>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "parallel.h"
#include "rounding.h"
#include "xla/ffi/api/ffi.h"

namespace llmpq {
namespace {

namespace ffi = xla::ffi;

ffi::Error Refuse(const std::string& what) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "llmpq_jax rounding: " + what);
}

// Weights are read from start to end at every step: with small pages a processor looks up
// thousands of them. If asked before the memory is first used, Linux provides large ones.
void AskForHugePages(char* data, int64_t size) {
#if defined(__linux__)
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data + size) / page * page;
  // Without large pages the program is slower, and nothing else changes.
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)data, (void)size;
#endif
}

// weight [F, C] of float32, bfloat16 or float16. Returns values and scales in panels; at
// 16 bits, of bfloat16 alone, there are no scales.
ffi::Error Round(ffi::ThreadPool pool, ffi::AnyBuffer weight,
                 ffi::Result<ffi::AnyBuffer> values,
                 ffi::Result<ffi::Buffer<ffi::F32>> scale, int64_t bits, int64_t group) {
  const auto shape = weight.dimensions();
  if (shape.size() != 2) return Refuse("expected a matrix");
  const int64_t num_features = shape[0], contracted = shape[1];
  const int64_t num_panels = (num_features + kPanel - 1) / kPanel;
  const bool has_groups = bits == 8 ? group == contracted : group % kRowsPerWord == 0;
  if (bits != 16 && (group <= 0 || contracted % group || !has_groups)) {
    return Refuse("groups of " + std::to_string(group) + " do not fit " +
                  std::to_string(contracted) + " rows");
  }
  const auto type = weight.element_type();
  const bool is_half = type == ffi::DataType::BF16 || type == ffi::DataType::F16;
  if (!is_half && type != ffi::DataType::F32) return Refuse("expected floats");
  if (bits == 16 && type != ffi::DataType::BF16) return Refuse("expected bfloat16");
  const int64_t value_bytes = num_panels * contracted * kPanel * bits / 8;
  const int64_t num_scales =
      bits == 16 ? 0 : num_panels * (contracted / group) * kPanel;
  if (static_cast<int64_t>(values->size_bytes()) != value_bytes ||
      static_cast<int64_t>(scale->element_count()) != num_scales) {
    return Refuse("values or scales have another size");
  }
  auto* const out = static_cast<char*>(values->untyped_data());
  const int64_t panel_bytes = num_panels ? value_bytes / num_panels : 0;
  const int64_t panel_scales = num_panels ? num_scales / num_panels : 0;
  AskForHugePages(out, value_bytes);
  const Rounding rounding = {contracted, group, bits == 8 ? 127.0f : 7.0f};
  const auto round = [&](int64_t panel, const auto* all) {
    const int64_t first = panel * kPanel;
    RoundPanel(all + first * contracted,
               std::min<int64_t>(kPanel, num_features - first), rounding,
               bits == 8 ? PutInt8 : PutInt4, out + panel * panel_bytes,
               scale->typed_data() + panel * panel_scales);
  };
  const void* const data = weight.untyped_data();
  ParallelFor(pool, num_panels, [&](int64_t panel) {
    if (bits == 16) {
      const int64_t first = panel * kPanel;
      CopyPanel(static_cast<const uint16_t*>(data) + first * contracted,
                std::min<int64_t>(kPanel, num_features - first), contracted,
                reinterpret_cast<uint16_t*>(out + panel * panel_bytes));
    } else if (type == ffi::DataType::F32) {
      round(panel, static_cast<const float*>(data));
    } else if (type == ffi::DataType::BF16) {
      round(panel, static_cast<const Bfloat16*>(data));
    } else {
      round(panel, static_cast<const Float16*>(data));
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llmpq

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(LlmpqRound, llmpq::Round,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group"));

#pragma GCC visibility pop

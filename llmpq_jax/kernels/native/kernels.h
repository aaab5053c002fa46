// The interface that each instruction set implements, and the layouts that all of them share.
//
// A weight [C, F] is stored in panels of 16 features, so that one pass over a panel reads
// memory in order, a whole vector of features at every contracted row:
//
//   16 bit [F/16, C, 16]    bfloat16
//   int8   [F/16, C, 16]    int8
//   int4   [F/16, C/8, 16]  uint32: eight consecutive rows of one feature, row i of them
//                           in bits 4i to 4i+3; the first seven are stored as value + 8,
//                           the last as two's complement, so that (word & 15 << 4i), read
//                           as a signed number, is (value + 8)·16^i, or value·16^7
//   scale  [F/16, G, 16]    float32; no groups at 16 bits
//
// Hidden states are packed by row blocks, in the order in which a multiplier reads them;
// each multiplier has its own number of rows to a block. By default the order is
// [C][rows of the block], in float32. For int4, row i of eight is multiplied by 16^-i,
// which is exact, and a second array has the sums that undo the + 8:
// [G][rows of the block].
#pragma once

#include <cstdint>
#include <vector>

namespace llmpq {

constexpr int kPanel = 16;
constexpr int kRowsPerWord = 8;

enum class WeightKind { kBfloat16, kInt8, kInt4 };
enum class Number { kFloat32, kBfloat16 };

struct PackArgs {
  const void* hidden;  // [num_rows, num_contracted] of `number`
  Number number;
  WeightKind kind;
  int64_t num_rows;  // of this block
  int64_t num_contracted;
  int64_t num_groups;
  float* packed;  // PackedFloats(num_rows, num_contracted)
  float* sums;    // SumFloats(num_rows, num_groups)
};

// Sizes of packed hidden states, and of the sums that belong to them.
inline int64_t PackedFloats(int64_t rows, int64_t contracted) {
  return rows * (contracted + contracted % 2);
}
inline int64_t SumFloats(int64_t rows, int64_t groups) { return rows * (2 * groups + 1); }

struct TileArgs {
  WeightKind kind;
  int64_t num_rows;  // of this block
  int64_t num_contracted;
  int64_t num_groups;
  const float* packed;
  const float* sums;
  const void* values;  // of this panel
  const float* scale;  // [num_groups][kPanel]
  void* out;           // first feature of this panel in the block's first row
  Number number;       // of `out`
  int64_t out_stride;  // elements from row to row
  int64_t num_valid;   // features of this panel that exist
  float* kept;         // the panel's weights as floats [num_contracted][kPanel], or null
  bool is_kept;        // `kept` has them already; otherwise they are written there
};

// A cache has keys and values in the type of the new ones or, with a scale for each token
// and head, as int8: scale times integer.
struct AttendArgs {
  const void* query;    // [num_kv_heads * num_shared, head_dim]
  const void* new_key;  // [num_kv_heads, head_dim]
  const void* new_value;
  void* keys;  // first slot of this row's first head; the new one goes to `position`
  void* values;
  float* key_scales;  // first slot of this row's first head; null unless int8
  float* value_scales;
  Number number;         // of query, new key and value, `out`, and of a cache that is not int8
  const float* slopes;   // [num_kv_heads * num_shared] of ALiBi, or null
  int64_t num_kv_heads;  // of this task
  int64_t num_shared;    // query heads for each of them
  int64_t head_dim;
  int64_t all_kv_heads;  // of a slot
  int64_t position;
  int64_t first_slot;  // of the window
  void* out;           // [num_kv_heads * num_shared, head_dim]
  float* scratch;      // AttendScratch(num_kv_heads * num_shared, head_dim) floats
};

constexpr int64_t kSlotsAtOnce = 32;

inline int64_t PaddedHeads(int64_t heads) { return (heads + 15) / 16 * 16; }

inline int64_t AttendScratch(int64_t heads, int64_t head_dim) {
  return 2 * heads * head_dim + (kSlotsAtOnce + 3) * PaddedHeads(heads);
}

// Types and sizes of a product.
struct ProductShape {
  WeightKind kind;
  Number number;  // of hidden states and products
  int64_t num_rows;
  int64_t num_contracted;
  int64_t num_groups;
};

// One implementation of the product.
struct Multiplier {
  int64_t max_rows;      // of a block
  int64_t packed_bytes;  // of one packed number
  void (*pack)(const PackArgs&);
  void (*tile)(const TileArgs&);
};

// The multiplier of one or two rows (few_rows.cc), or null if it does not serve this shape.
const Multiplier* FewRowsMultiplier(const ProductShape& shape);

// The kernels of one instruction set.
struct Kernels {
  const char* name;
  const Multiplier& (*multiplier_for)(const ProductShape&);
  void (*attend)(const AttendArgs&);
};

extern const Kernels kPortableKernels;
#if defined(LLMPQ_FOR_X86)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
#if defined(LLMPQ_FOR_AMX)
extern const Kernels kAmxKernels;
#endif
#endif

// The kernels that this processor can run, the slowest first.
std::vector<const Kernels*> KernelsHere();

}  // namespace llmpq

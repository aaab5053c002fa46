// Compiled with -mavx512f and related flags; called only where the processor has them.
#include "vector_avx512.h"

#define LLMPQ_ISA avx512
#include "attend.h"
#include "tiles.h"

namespace llmpq {
const Kernels kAvx512Kernels = {"avx512", avx512::MultiplierFor, avx512::Attend};
}  // namespace llmpq

// Compiled with -mavx2 -mfma; called only where the processor has both.
#include "vector_avx2.h"

#define LLMPQ_ISA avx2
#include "attend.h"
#include "tiles.h"

namespace llmpq {
const Kernels kAvx2Kernels = {"avx2", avx2::MultiplierFor, avx2::Attend};
}  // namespace llmpq

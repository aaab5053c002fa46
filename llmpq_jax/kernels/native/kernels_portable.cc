#include "vector_portable.h"

#define LLMPQ_ISA portable
#include "attend.h"
#include "tiles.h"

namespace llmpq {
const Kernels kPortableKernels = {"portable", portable::MultiplierFor, portable::Attend};
}  // namespace llmpq

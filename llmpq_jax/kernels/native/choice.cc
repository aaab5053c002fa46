// Chooses the kernels that this processor can run.
#include "kernels.h"

#if defined(LLMPQ_FOR_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llmpq {
namespace {

#if defined(LLMPQ_FOR_AMX)
// Tiles are state that Linux saves for every thread, so a process must request them.
bool MayUseAmx() {
  constexpr unsigned kTile = 1u << 24, kBfloat16 = 1u << 22;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if (!(edx & kTile) || !(edx & kBfloat16)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

std::vector<const Kernels*> KernelsHere() {
  std::vector<const Kernels*> here = {&kPortableKernels};
#if defined(LLMPQ_FOR_X86)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return here;
  here.push_back(&kAvx2Kernels);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return here;
  }
  here.push_back(&kAvx512Kernels);
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) {
    return here;
  }
  // Intel's dot products of bfloat16 take longer than the float32 products they replace.
  here.insert(here.end() - __builtin_cpu_is("intel"), &kAvx512Bf16Kernels);
#if defined(LLMPQ_FOR_AMX)
  if (MayUseAmx()) here.push_back(&kAmxKernels);
#endif
#endif
  return here;
}

}  // namespace llmpq

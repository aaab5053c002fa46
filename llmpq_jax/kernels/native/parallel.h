// Distributes work over XLA's own thread pool; starts no threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llmpq {

inline void Pause(int round) {
  if (round > 2000) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Calls body(index) for each index below `count`, on the caller and on the pool's
// threads, and returns when all calls are done. Indices are claimed one by one, so that
// no call waits for a thread that starts late or never: the caller alone would finish,
// which also prevents a deadlock of a full pool.
template <class Body>
void ParallelFor(xla::ffi::ThreadPool& pool, int64_t count, const Body& body) {
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  if (helpers <= 0) {
    for (int64_t index = 0; index < count; ++index) body(index);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
    int64_t count;
    const Body* body;  // invalid once the caller returns: used for a claimed index only
    void Work() {
      for (int64_t index; (index = next.fetch_add(1)) < count;) {
        (*body)(index);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->count = count;
  shared->body = &body;
  for (int64_t helper = 0; helper < helpers; ++helper) {
    pool.Schedule([shared] { shared->Work(); });
  }
  shared->Work();
  for (int round = 0; shared->done.load(std::memory_order_acquire) < count; ++round) {
    Pause(round);
  }
}

}  // namespace llmpq

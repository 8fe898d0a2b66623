#include "threads.h"

#include <system_error>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace adamomentum {
namespace {

using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);

ParallelFor torch_parallel_for = nullptr;

int64_t process() {
#if defined(_WIN32)
  return 0;  // no fork
#else
  return getpid();
#endif
}

const int64_t loaded_in = process();

// A forked child has torch's pool without its threads, and would wait for them for ever.
bool can_use_torch() { return torch_parallel_for && process() == loaded_in; }

struct Work {
  void (*run)(void *);
  void *context;
};

void run_range(int64_t begin, int64_t end, void *work) {
  for (; begin < end; ++begin) static_cast<Work *>(work)->run(static_cast<Work *>(work)->context);
}

}  // namespace

void use_torch_threads(uintptr_t parallel_for) { torch_parallel_for = reinterpret_cast<ParallelFor>(parallel_for); }

const char *thread_source() { return can_use_torch() ? "torch" : "own"; }

void in_parallel(int workers, void (*run)(void *), void *context) {
  if (workers <= 1) {
    run(context);
    return;
  }
  Work work{run, context};
  if (can_use_torch() && torch_parallel_for(0, workers, 1, run_range, &work) == 0) return;
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(workers) - 1);
  try {
    for (int i = 1; i < workers; ++i) threads.emplace_back(run, context);
  } catch (const std::system_error &) {
    // No more threads to be had: those that run, and this one, do all the work.
  }
  run(context);
  for (auto &thread : threads) thread.join();
}

#if defined(__x86_64__) || defined(_M_X64)
FlushSubnormals::FlushSubnormals() : before_(_mm_getcsr()) {
  _mm_setcsr(static_cast<unsigned>(before_) | 0x8040u);  // flush to zero, denormals are zero
}
FlushSubnormals::~FlushSubnormals() {
  // Restores the mode, keeps exception flags that were raised.
  _mm_setcsr((_mm_getcsr() & ~0x8040u) | (static_cast<unsigned>(before_) & 0x8040u));
}
#elif defined(__aarch64__)
FlushSubnormals::FlushSubnormals() {
  asm volatile("mrs %0, fpcr" : "=r"(before_));
  asm volatile("msr fpcr, %0" : : "r"(before_ | (uint64_t{1} << 24)));
}
FlushSubnormals::~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#else
FlushSubnormals::FlushSubnormals() : before_(0) {}
FlushSubnormals::~FlushSubnormals() { (void)before_; }
#endif

}  // namespace adamomentum

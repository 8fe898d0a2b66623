// One function run on several threads: torch's own pool where its address is known, threads of the moment otherwise.
#pragma once

#include <cstdint>

namespace adamomentum {

// The address of torch_parallel_for, exported by libtorch_cpu since torch 2.10; 0 for none.
void use_torch_threads(uintptr_t parallel_for);

// Which of the two a parallel region would use now: "torch" or "own".
const char *thread_source();

// Runs work(context) on up to `workers` threads, this one included, and returns when all have ended.
void in_parallel(int workers, void (*work)(void *), void *context);

// Flushes subnormal numbers to zero on this thread while it lives: they are up to 100 times slower, and a moment that
// small has no effect. The mode that was set before returns at the end.
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();
  FlushSubnormals(const FlushSubnormals &) = delete;

 private:
  uint64_t before_;
};

}  // namespace adamomentum

// Reading memory and nothing else: the floor that kernels are measured against.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
// Reads `bytes` (a multiple of 64 counts) on the pool's threads; what comes back depends on all of them.
extern "C" uint64_t wb_read(const void* data, int64_t bytes);
#pragma GCC visibility pop

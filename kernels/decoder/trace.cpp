#include "trace.h"

#include <time.h>

#include "traced.h"

namespace wb {

TraceRing trace_ring = {nullptr, 0, 0};

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

}  // namespace wb

extern "C" void wb_trace_set(WbTrace* ring, int64_t capacity) {
  wb::trace_ring = {capacity > 0 ? ring : nullptr, capacity, 0};
}

extern "C" int64_t wb_trace_count() { return wb::trace_ring.count; }

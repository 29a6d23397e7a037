// For kernels: `Traced t(op, layer, bytes, flops);` records the scope it lives in.
#pragma once
#include "trace.h"

namespace wb {

struct TraceRing {
  WbTrace* ring;
  int64_t capacity, count;
};
extern TraceRing trace_ring;
int64_t now_ns();

class Traced {
 public:
  Traced(int32_t op, int32_t layer, int64_t bytes, int64_t flops)
      : on_(trace_ring.ring != nullptr), op_(op), layer_(layer), bytes_(bytes), flops_(flops),
        start_(on_ ? now_ns() : 0) {}
  ~Traced() {
    if (!on_ || !trace_ring.ring) return;
    trace_ring.ring[trace_ring.count++ % trace_ring.capacity] = {op_, layer_, start_, now_ns(),
                                                                 bytes_, flops_};
  }

 private:
  bool on_;
  int32_t op_, layer_;
  int64_t bytes_, flops_, start_;
};

}  // namespace wb

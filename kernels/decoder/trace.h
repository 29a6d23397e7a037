// What ran when: a ring of records that costs one comparison per operation while it is off.
#pragma once
#include <cstdint>

enum WbOp : int32_t {
  WB_OP_EMBED = 0, WB_OP_NORM = 1, WB_OP_QKV = 2, WB_OP_ROPE = 3, WB_OP_ATTENTION = 4,
  WB_OP_OUT = 5, WB_OP_GATE_UP = 6, WB_OP_SWIGLU = 7, WB_OP_DOWN = 8, WB_OP_HEAD = 9,
};

// Times on CLOCK_MONOTONIC, nanoseconds; layer -1 outside the layers; bytes and flops are the least
// that the operation needs (cost.py of each operation).
struct WbTrace {
  int32_t op, layer;
  int64_t t0_ns, t1_ns, bytes, flops;
};

#pragma GCC visibility push(default)
extern "C" {
// Records go to `ring` (`capacity` of them, oldest overwritten) from now on; null turns it off.
void wb_trace_set(WbTrace* ring, int64_t capacity);
// Records made since the last wb_trace_set, also those that were overwritten.
int64_t wb_trace_count();
}
#pragma GCC visibility pop

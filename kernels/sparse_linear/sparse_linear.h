// Rows of a stored sparse matrix (WB_SPARSE of native/linear.h) as dense bfloat16.
#pragma once
#include "../native/linear.h"

namespace wb {

// Rows [row, end) of `w` -> out [end - row][columns]; `out` has 64 bytes more than that. Exact.
void expand_rows(const WbWeight& w, int row, int end, uint16_t* out);

}  // namespace wb

#pragma GCC visibility push(default)
// The same for callers outside of a product; `out` is dense [end - row][columns], nothing is written behind it.
extern "C" void wb_sparse_expand(const WbWeight* w, int32_t row, int32_t end, uint16_t* out);
#pragma GCC visibility pop

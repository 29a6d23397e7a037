// The decoder's matrix products: several matrices with one input.
#pragma once
#include "decoder.h"

namespace wb {

// y[i] float32 [m, rows] = x bfloat16 [m, columns] times w[i] transposed, plus its bias; at most four.
// `prompt`: as in WbProduct. Returns 0, or 1 for a weight that the product library does not know.
int multiply(const WbMatrix* const* w, float* const* y, int count, const uint16_t* x, int m,
             int prompt);

}  // namespace wb

#include "products.h"

#include "../native/linear.h"

namespace wb {

int multiply(const WbMatrix* const* w, float* const* y, int count, const uint16_t* x, int m,
             int prompt) {
  WbProduct products[4];
  for (int i = 0; i < count; ++i) products[i] = {w[i]->weight, w[i]->bias, y[i], 0, prompt};
  return wb_linear(products, count, x, m);
}

}  // namespace wb

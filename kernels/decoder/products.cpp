#include "products.h"

#include <cstdlib>

namespace wb {

void multiply(const WbMatrix* const*, float* const*, int, const uint16_t*, int) { std::abort(); }

}  // namespace wb

#include "read.h"

#include <atomic>

#include "../native/pool.h"
#include "vector.h"

namespace {

typedef uint64_t L8 __attribute__((vector_size(64), aligned(8)));
constexpr int64_t kPart = 1 << 18;

WB_INLINE void wb_read_part_body(const char* data, int64_t bytes, uint64_t* found) {
  L8 a = {0}, b = {0}, c = {0}, d = {0}, v;
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    std::memcpy(&v, data + i, 64);
    a ^= v;
    std::memcpy(&v, data + i + 64, 64);
    b ^= v;
    std::memcpy(&v, data + i + 128, 64);
    c ^= v;
    std::memcpy(&v, data + i + 192, 64);
    d ^= v;
  }
  a ^= b ^ c ^ d;
  for (int i = 0; i < 8; ++i) *found ^= a[i];
}

struct Call {
  const char* data;
  int64_t bytes;
  std::atomic<uint64_t> found{0};
};

}  // namespace

WB_CLONES(wb_read_part, (const char* data, int64_t bytes, uint64_t* found), (data, bytes, found))

extern "C" uint64_t wb_read(const void* data, int64_t bytes) {
  Call call;
  call.data = static_cast<const char*>(data);
  call.bytes = bytes;
  wb_parallel(static_cast<int>((bytes + kPart - 1) / kPart), [](void* context, int i) {
    Call& c = *static_cast<Call*>(context);
    const int64_t from = i * kPart, count = c.bytes - from < kPart ? c.bytes - from : kPart;
    uint64_t found = 0;
    wb_read_part(c.data + from, count, &found);
    c.found.fetch_xor(found, std::memory_order_relaxed);
  }, &call);
  return call.found.load();
}

#include "pool.h"

#include "seats.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

namespace {

using wb_pool::now;
using wb_pool::pause_a_little;

constexpr int kMost = 256;        // threads
constexpr int kMostChunks = (1 << 20) - 1;
constexpr int64_t kSpinNs = 30000;  // a worker between two operations of a forward
constexpr int64_t kJoinNs = 15000;  // for a chunk that another thread is in

using Fn = void (*)(void*, int);

// generation (24 bits) | first chunk (20) | end (20): taking a chunk is one compare-and-swap, which
// fails when the job is another one. A taken chunk keeps its job alive until it is counted as done.
struct alignas(64) Range {
  std::atomic<uint64_t> word{0};
};

struct Pool {
  Range range[kMost];
  wb_pool::Seat seat[kMost];
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<int> sleepers{0};
  alignas(64) std::atomic<int> left{0};
  std::atomic<uint32_t> joined{0};
  std::atomic<int> caller_sleeps{0};
  std::atomic<int> team{1};
  Fn fn = nullptr;
  void* ctx = nullptr;
  int started = 1;  // the caller counts
};

Pool* pool = nullptr;
std::atomic_flag busy = ATOMIC_FLAG_INIT;
std::atomic<int> wanted{0};
thread_local bool inside = false;

#if defined(__linux__)
void wait_on(std::atomic<uint32_t>& word, uint32_t seen) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void wake(std::atomic<uint32_t>& word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}
#else
void wait_on(std::atomic<uint32_t>&, uint32_t) { usleep(50); }
void wake(std::atomic<uint32_t>&, int) {}
#endif

uint64_t pack(uint32_t epoch, uint32_t lo, uint32_t hi) {
  return (static_cast<uint64_t>(epoch & 0xffffff) << 40) | (static_cast<uint64_t>(lo) << 20) | hi;
}

// A chunk of this job from `who`'s run: its front for the owner, its end for others. -1: none left.
int take(Pool& p, int who, uint32_t epoch, bool own) {
  uint64_t seen = p.range[who].word.load(std::memory_order_acquire);
  for (;;) {
    const uint32_t lo = (seen >> 20) & 0xfffff, hi = seen & 0xfffff;
    if ((seen >> 40) != (epoch & 0xffffff) || lo >= hi) return -1;
    const uint64_t next = own ? pack(epoch, lo + 1, hi) : pack(epoch, lo, hi - 1);
    if (p.range[who].word.compare_exchange_weak(seen, next, std::memory_order_acq_rel))
      return static_cast<int>(own ? lo : hi - 1);
  }
}

void work(Pool& p, int me, int team, uint32_t epoch) {
  wb_pool::sit(p.seat[me]);
  for (int turn = 0; turn < team; ++turn) {
    const int who = (me + turn) % team;
    for (;;) {
      const int chunk = take(p, who, epoch, turn == 0);
      if (chunk < 0) break;
      p.fn(p.ctx, chunk);
      if (p.left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        p.joined.fetch_add(1);
        if (p.caller_sleeps.load()) wake(p.joined, 1);
      }
    }
  }
  wb_pool::leave(p.seat[me], me == 0);
}

void* worker(void* argument) {
  Pool& p = *pool;
  const int me = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  inside = true;
  uint32_t seen = 0;
  int team = 0;
  for (;;) {
    int64_t began = 0;
    for (int i = 0; p.epoch.load(std::memory_order_acquire) == seen; ++i) {
      pause_a_little();
      if (i % 64) continue;
      const int64_t time = now();
      if (!began) began = time;
      const bool late = time - began >= kJoinNs && me < team && p.left.load(std::memory_order_acquire) > 0;
      const bool lent = late && wb_pool::lend(p.seat, me, team);
      if (!lent && time - began < kSpinNs) continue;
      if (lent) wb_pool::step_aside();
      p.sleepers.fetch_add(1);
      if (p.epoch.load() == seen) wait_on(p.epoch, seen);
      p.sleepers.fetch_sub(1);
    }
    seen = p.epoch.load(std::memory_order_acquire);
    team = p.team.load(std::memory_order_acquire);
    if (me < team) work(p, me, team, seen);
  }
  return nullptr;
}

void in_child() {  // the threads stayed with the parent
  pool = nullptr;
  busy.clear();
  inside = false;
  wb_pool::forget_thread();
}

int usable() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? static_cast<int>(n) : 1;
}

Pool& grown(int team) {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, in_child); });
  if (!pool) pool = new Pool;  // never freed: its threads live as long as the process
  Pool& p = *pool;
  while (p.started < team) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    const int failed = pthread_create(&thread, &attributes, worker,
                                      reinterpret_cast<void*>(static_cast<intptr_t>(p.started)));
    pthread_attr_destroy(&attributes);
    if (failed) break;  // fewer threads, same result
    ++p.started;
  }
  return p;
}

void join(Pool& p, int team) {
  const int64_t began = now();
  while (p.left.load(std::memory_order_acquire) > 0) {
    pause_a_little();
    if (now() - began < kJoinNs) continue;
    wb_pool::lend(p.seat, 0, team);
    const uint32_t seen = p.joined.load();
    p.caller_sleeps.store(1);
    if (p.left.load() > 0) wait_on(p.joined, seen);
    p.caller_sleeps.store(0);
  }
}

}  // namespace

extern "C" int wb_threads(void) {
  const int n = wanted.load();
  return n > 0 ? n : usable();
}

extern "C" void wb_set_threads(int threads) {
  wanted.store(threads < 1 ? 1 : threads > kMost ? kMost : threads);
}

extern "C" void wb_parallel(int n, Fn fn, void* ctx) {
  int team = inside ? 1 : wb_threads();
  if (team > n) team = n;
  if (team <= 1 || n > kMostChunks || busy.test_and_set(std::memory_order_acquire)) {
    for (int i = 0; i < n; ++i) fn(ctx, i);
    return;
  }
  Pool& p = grown(team);
  if (team > p.started) team = p.started;
  const uint32_t epoch = p.epoch.load() + 1;
  p.fn = fn;
  p.ctx = ctx;
  p.left.store(n);
  p.team.store(team);
  for (int64_t i = 0; i < team; ++i)
    p.range[i].word.store(pack(epoch, static_cast<uint32_t>(i * n / team),
                               static_cast<uint32_t>((i + 1) * n / team)),
                          std::memory_order_release);
  p.epoch.store(epoch);
  if (p.sleepers.load() > 0) wake(p.epoch, kMost);
  inside = true;
  work(p, 0, team, epoch);
  inside = false;
  join(p, team);
  busy.clear(std::memory_order_release);
}

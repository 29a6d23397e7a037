// A part of pool.cpp: threads of a team help one another when other processes take their cores.
//
// A member that is taken off its core in the middle of a chunk stays away for milliseconds, and all wait for
// its chunk: with one of two cores kept busy a step of 24 ms takes 47. One that waits therefore moves it to
// its own core and sleeps. Afterwards the worker of the two goes back to the contended core, so that the caller,
// who begins the next operation, is not the one that is late.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <ctime>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

namespace wb_pool {

constexpr int64_t kStallNs = 3000;  // without processor time: not slow, but off its core

inline int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

inline void pause_a_little() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__linux__)
enum At { kOut, kWorking, kAsked, kMoved };

struct alignas(64) Seat {
  std::atomic<int> at{kOut};
  std::atomic<int> thread{0};  // the system's number
  clockid_t clock{};
  cpu_set_t cores{};  // where it may run, while it is moved
};

// Leaves this core to another member; the system would keep both on it for milliseconds.
inline void go_elsewhere(const cpu_set_t& cores) {
  const int here = sched_getcpu();
  if (here < 0 || !CPU_ISSET(here, &cores) || CPU_COUNT(&cores) < 2) return;
  cpu_set_t others = cores;
  CPU_CLR(here, &others);
  sched_setaffinity(0, sizeof others, &others);
  sched_setaffinity(0, sizeof cores, &cores);
}

inline int& thread_number() {  // 0: to be asked for
  static thread_local int number = 0;
  return number;
}
inline void forget_thread() { thread_number() = 0; }  // a forked child's thread is another one

inline void sit(Seat& seat) {
  int& number = thread_number();
  if (!number) number = static_cast<int>(syscall(SYS_gettid));
  if (seat.thread.load(std::memory_order_relaxed) != number) {
    pthread_getcpuclockid(pthread_self(), &seat.clock);
    seat.thread.store(number, std::memory_order_relaxed);
  }
  seat.at.store(kWorking, std::memory_order_release);
}

inline void leave(Seat& seat, bool calls) {
  for (;;) {
    int at = kWorking;
    if (seat.at.compare_exchange_weak(at, kOut)) return;
    if (at == kMoved) break;
    pause_a_little();
  }
  sched_setaffinity(0, sizeof seat.cores, &seat.cores);
  if (!calls) go_elsewhere(seat.cores);
  seat.at.store(kOut);
}

inline bool stands_still(const Seat& seat) {
  timespec a, b;
  if (clock_gettime(seat.clock, &a)) return false;
  for (const int64_t began = now(); now() - began < kStallNs;) pause_a_little();
  return !clock_gettime(seat.clock, &b) && a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

// Moves a member that stands still to this core; the one that asked should sleep then. False: none does.
inline bool lend(Seat* seats, int me, int team) {
  for (int who = 0; who < team; ++who) {
    Seat& seat = seats[who];
    if (who == me || seat.at.load(std::memory_order_acquire) != kWorking || !stands_still(seat)) continue;
    const int core = sched_getcpu();
    int at = kWorking;
    if (core < 0 || !seat.at.compare_exchange_strong(at, kAsked)) continue;
    const int thread = seat.thread.load(std::memory_order_relaxed);  // it stays until it is told kMoved
    bool moved = sched_getaffinity(thread, sizeof seat.cores, &seat.cores) == 0;
    if (moved && CPU_ISSET(core, &seat.cores)) {
      cpu_set_t mine;
      CPU_ZERO(&mine);
      CPU_SET(core, &mine);
      moved = sched_setaffinity(thread, sizeof mine, &mine) == 0;
    } else {
      moved = false;
    }
    if (!moved) {  // as if never asked
      seat.at.store(kWorking, std::memory_order_release);
      continue;
    }
    seat.at.store(kMoved, std::memory_order_release);
    return true;
  }
  return false;
}

// A worker that helped leaves its core to the member it helped.
inline void step_aside() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) go_elsewhere(cores);
}
#else
struct Seat {};
inline void sit(Seat&) {}
inline void leave(Seat&, bool) {}
inline bool lend(Seat*, int, int) { return false; }
inline void step_aside() {}
inline void forget_thread() {}
#endif

}  // namespace wb_pool

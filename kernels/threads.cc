// threads.cc: see threads.h.
#include "threads.h"

#include <sched.h>

namespace
{

// The three entries of the OpenMP runtime that torch has already loaded (GNU's names; LLVM's runtime offers them too).
// Linking our own copy would put two runtimes into one process: pytorch#98836, #149422.
void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
int (*thread_number)();
int (*thread_count)();

struct Region {
    Work work;
    void *job;
};

void enter(void *data)
{
    const Region *region = static_cast<const Region *>(data);
    // The team may be smaller than asked for (nested regions, OMP_THREAD_LIMIT), so it is counted here, inside.
    region->work(region->job, thread_number(), thread_count());
}

inline void pause()
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

} // namespace

void run_team(Index workers, Work work, void *job)
{
    if (workers <= 1 || !parallel) {
        work(job, 0, 1);
        return;
    }
    Region region = {work, job};
    parallel(enter, &region, static_cast<unsigned>(workers), 0);
}

void wait_for_all(Barrier *barrier, Index workers)
{
    if (workers == 1) return;
    const Index phase = __atomic_load_n(&barrier->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == workers) {
        __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    // A neighbour on the same core may be the one we wait for: after some 2000 pauses let it run.
    for (int spins = 0; __atomic_load_n(&barrier->phase, __ATOMIC_ACQUIRE) == phase; ++spins) {
        if (spins < 2000)
            pause();
        else
            sched_yield();
    }
}

extern "C" void holdfast_borrow_team(void *gomp_parallel, void *omp_get_thread_num, void *omp_get_num_threads)
{
    const bool complete = gomp_parallel && omp_get_thread_num && omp_get_num_threads;
    thread_number = reinterpret_cast<int (*)()>(omp_get_thread_num);
    thread_count = reinterpret_cast<int (*)()>(omp_get_num_threads);
    parallel = complete ? reinterpret_cast<decltype(parallel)>(gomp_parallel) : nullptr;
}

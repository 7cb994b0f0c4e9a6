// SPDX-License-Identifier: Apache-2.0
//
// rseq.cc - restartable sequences, by glibc's own registration: a thread that is preempted,
// moved or signalled in one starts over, and knows its CPU (Documentation: rseq(2)).
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>

// long spin(rseq *, uint32_t *running)         never ends by itself
// long add(rseq *, uint64_t *counter, long n)  counter++, slowly
// long touch(rseq *, char *p)                  writes to p
// long where(rseq *, uint32_t out[3])          cpu_id, RDTSCP's answer, the vDSO's source
// 0: it ran to its end; 1: it was aborted.
asm(R"(
	.macro SECTION name
	.section .data.rel.ro, "aw"
	.balign 32
\name\()_section:
	.long	0, 0
	.quad	\name\()_start, \name\()_end - \name\()_start, \name\()_abort
	.text
	.type \name, @function
\name:
	lea	\name\()_section(%rip), %rax
	mov	%rax, 8(%rdi)
\name\()_start:
	.endm
	.macro END name
\name\()_end:
	xor	%eax, %eax
	ret
	.long	0x53053053
\name\()_abort:
	mov	$1, %eax
	ret
	.size \name, . - \name
	.endm

	SECTION	spin
	movl	$1, (%rsi)
1:	pause
	jmp	1b
	END	spin

	SECTION	add
	mov	(%rsi), %rax
1:	dec	%rdx
	jnz	1b
	inc	%rax
	mov	%rax, (%rsi)
	END	add

	SECTION	touch
	movb	$1, (%rsi)
	END	touch

	SECTION	where
	mov	4(%rdi), %eax
	mov	%eax, (%rsi)
	rdtscp
	mov	%ecx, 4(%rsi)
	mov	$0x7b, %ecx		# __CPUNODE_SEG
	mov	$-1, %eax
	lsl	%ecx, %eax
	mov	%eax, 8(%rsi)
	END	where
)");

extern "C" {
long spin(struct rseq*, uint32_t*);
long add(struct rseq*, uint64_t*, long);
long touch(struct rseq*, char*);
long where(struct rseq*, uint32_t*);
extern const char spin_start[], spin_end[];
}

namespace {

struct rseq* area() {
  return reinterpret_cast<struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                        __rseq_offset);
}

void pin(pid_t tid, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(tid, sizeof(set), &set);
}

uint64_t interrupted_at, fault_at;

void on(int signal) {
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int signal, siginfo_t* info, void* context) {
    auto* gregs = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    interrupted_at = static_cast<uint64_t>(gregs[REG_RIP]);
    fault_at = reinterpret_cast<uint64_t>(info->si_addr);
    if (signal == SIGSEGV) mprotect(info->si_addr, 4096, PROT_READ | PROT_WRITE);
  };
  sigaction(signal, &action, nullptr);
}

void signalled() {
  on(SIGALRM);
  for (int i = 0; i < 3; i++) {
    const itimerval soon = {{0, 0}, {0, 5000}};
    uint32_t running = 0;
    setitimer(ITIMER_REAL, &soon, nullptr);
    const long aborted = spin(area(), &running);
    // Some other preemption may have been first.
    printf("signalled: aborted %ld, the handler finds it inside %d\n", aborted,
           interrupted_at >= reinterpret_cast<uint64_t>(spin_start) &&
               interrupted_at < reinterpret_cast<uint64_t>(spin_end));
  }
}

// A second thread on the same CPU takes turns with it.
void preempted() {
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) {
    }
  });
  uint32_t running = 0;
  long aborted = 0;
  for (int i = 0; i < 3; i++) aborted += spin(area(), &running);
  stop = true;
  other.join();
  printf("preempted: aborted %ld\n", aborted);
}

void faulting() {
  char* p = static_cast<char*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  while (touch(area(), p)) {
  }
  printf("a page that is made meanwhile: %d\n", *p);
  on(SIGSEGV);
  mprotect(p, 4096, PROT_NONE);
  while (touch(area(), p)) {
  }
  printf("one that the handler allows: address %d\n", fault_at == reinterpret_cast<uint64_t>(p));
}

void counted() {
  static uint64_t counter;
  constexpr int kThreads = 3, kTimes = 60;
  constexpr long kSlow = 20'000;  // some of them are interrupted
  std::thread threads[kThreads];
  for (auto& t : threads)
    t = std::thread([] {
      for (int i = 0; i < kTimes; i++)
        while (add(area(), &counter, kSlow)) {
        }
    });
  for (auto& t : threads) t.join();
  printf("counted: %d of %d\n", static_cast<int>(counter), kThreads * kTimes);
}

// What it sees in one section belongs together.
void moved() {
  const pid_t tid = gettid();
  const int cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  std::atomic<bool> stop = false;
  std::atomic<int> moves = 0;
  std::thread other([&] {
    while (!stop) {
      pin(tid, moves++ % cpus);
      sched_yield();
    }
  });
  int lies = 0, committed = 0;
  while (moves < 200 || committed < 1000) {
    uint32_t seen[3];
    if (where(area(), seen)) continue;
    committed++;
    if (seen[0] != (seen[1] & 0xfff) || seen[1] != seen[2]) lies++;
  }
  stop = true;
  other.join();
  printf("moved: lies %d\n", lies);
}

void named() {
  for (int cpu = 0; cpu < static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)); cpu++) {
    pin(0, cpu);
    unsigned vdso = ~0u, node = ~0u;
    getcpu(&vdso, &node);
    printf("CPU: sched_getcpu %d, getcpu %d, node %u, cpu_id %d\n", sched_getcpu() == cpu,
           vdso == static_cast<unsigned>(cpu), node, area()->cpu_id == static_cast<unsigned>(cpu));
  }
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IONBF, 0);
  printf("registered: %d\n", __rseq_size != 0);
  named();
  pin(0, 0);
  signalled();
  faulting();
  preempted();
  counted();
  moved();
}

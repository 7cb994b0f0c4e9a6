// SPDX-License-Identifier: Apache-2.0
// in_child.h - a part of a test in a process of its own.
#pragma once

#include <functional>
#include <string>

namespace test {

// Runs `part` in a fork child and returns what it returned: "" when all was well, else
// what was not.  A child that dies says how.
std::string in_child(const std::function<std::string()>& part);

// Keeps the calling thread on one CPU.  False: there is no such CPU.
bool pin(int cpu);
// Takes back the C library's registration of restartable sequences for the calling thread: with
// it a thread passes user mode after each preemption, without it need not.  False: Linux refuses.
bool drop_rseq();
int cpus();

// A child that runs `work` until this object goes away.
class Background {
 public:
  explicit Background(const std::function<void()>& work);
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

 private:
  int pid_;
};

}  // namespace test

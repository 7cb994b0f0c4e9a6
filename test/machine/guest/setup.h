// SPDX-License-Identifier: Apache-2.0
//
// setup.h - makes the machine look like a small Debian: mounts, names, network, modules.
#ifndef DUNE_TEST_MACHINE_GUEST_SETUP_H
#define DUNE_TEST_MACHINE_GUEST_SETUP_H

#include <string>

namespace machine {

// /proc, /sys, /dev with pts and shm, debugfs, tracefs, cgroup2.  The root is a tmpfs.
void mount_file_systems();
void bring_up_loopback();
// Messages more urgent than `level` reach the console, that is the kernel log on the host.
void set_console_level(const std::string& level);
// One line into the kernel log, so that what follows can be attributed.
void kernel_log(const std::string& text);
// finit_module(2); stops the machine when it fails.
void load_module(const std::string& path, const std::string& parameters);
// Sends where the kernel's code is, for symbolising addresses.
void report_kernel();
// The same for modules, when others are loaded than at the last call.
void report_modules();

}  // namespace machine

#endif

// SPDX-License-Identifier: Apache-2.0
//
// c_api.cc - dune.h on top of dune.hpp.
#include <cerrno>
#include <cstdarg>
#include <cstdio>

#include "libdune/c_api.h"
#include "libdune/debug.h"
#include "libdune/dune.hpp"
#include "libdune/print.h"
#include "libdune/process.h"
#include "libdune/sys.h"

int dune_init(bool /*map_full*/) {
  if (dune::in_dune()) return 0;
  auto ready = dune::prepare_process({});
  if (ready) {
    dune::set_c_globals();
    return 0;
  }
  dune::Line().text(ready.error().what ? ready.error().what : "cannot prepare Dune mode");
  return -ready.error().code;
}

int dune_enter(void) {
  auto entered = dune::enter();
  if (entered) dune::set_c_globals();
  return -entered.error().code;
}

int dune_register_intr_handler(int vec, dune_intr_cb cb) {
  if (vec < 0 || vec >= DUNE_IDT_ENTRIES) return -EINVAL;
  dune::Handler h = {};
  h.kind = cb ? dune::Handler::kC : dune::Handler::kNone;
  h.c = cb;
  dune::set_handler(dune::dune_handlers.trap[vec], h);
  return 0;
}

void dune_register_pgflt_handler(dune_pgflt_cb cb) {
  dune::Handler h = {};
  h.kind = cb ? dune::Handler::kCPageFault : dune::Handler::kNone;
  h.c_page_fault = cb;
  dune::set_handler(dune::dune_handlers.page_fault, h);
}

int dune_printf(const char* fmt, ...) {
  char text[1024];
  va_list args;

  va_start(args, fmt);
  int n = vsnprintf(text, sizeof(text), fmt, args);
  va_end(args);
  if (n < 0) return n;
  size_t used = static_cast<size_t>(n) < sizeof(text) ? static_cast<size_t>(n) : sizeof(text) - 1;
  dune::sys::write(1, text, used);
  return n;
}

void dune_die(void) {
  for (;;) dune::sys::call(__NR_exit_group, 1);
}

void dune_dump_trap_frame(struct dune_tf* tf) { dune::dump(*tf); }

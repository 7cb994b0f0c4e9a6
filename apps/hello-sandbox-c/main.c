// SPDX-License-Identifier: Apache-2.0
//
// hello-sandbox-c - hello-sandbox in C: what a plugin may and what it may not.
//
//   hello-sandbox-c build/test/plugins/good.so build/test/plugins/evil.so
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libdune/dune.h"
#include "sandbox/dune_sandbox.h"

struct point {
  double x, y;
};

static dune_plugin* load(const char* library, const struct dune_plugin_options* options) {
  struct dune_plugin_error error;
  dune_plugin* plugin;

  if (dune_plugin_load(library, options, &plugin, &error)) {
    fprintf(stderr, "%s: %s\n", library, error.text);
    exit(1);
  }
  return plugin;
}

// The host's part of a sum that the plugin makes.
static void add(dune_plugin* caller, void* result, const void* const* arguments, void* context) {
  const long a = *(const long*)arguments[0], b = *(const long*)arguments[1];

  (void)caller;
  ++*(int*)context;
  *(long*)result = a + b;
}

// One that does its work: values, structures, buffers, callbacks.
static void work(const char* library) {
  dune_plugin* plugin = load(library, NULL);
  const struct point p = {1.5, -2};
  struct point swapped;
  struct dune_plugin_error error;

  if (dune_plugin_call(plugin, dune_plugin_symbol(plugin, "swapped"), "{dd}({dd})", &error,
                       &swapped, &p) == 0)
    printf("swapped: %g, %g\n", swapped.x, swapped.y);

  char text[] = "the quick brown fox";
  const dune_remote room = dune_plugin_allocate(plugin, sizeof(text));
  dune_plugin_write(plugin, room, text, sizeof(text));
  dune_plugin_call(plugin, dune_plugin_symbol(plugin, "upper"), "v(ppL)", NULL, NULL, room, room,
                   sizeof(text));
  if (dune_plugin_read(plugin, room, text, sizeof(text)) == 0) printf("upper: %s\n", text);

  const int values[] = {1, 2, 3, 4};
  dune_remote callback;
  int calls = 0;
  long sum;
  dune_plugin_write(plugin, room, values, sizeof(values));
  dune_plugin_export(plugin, "l(ll)", add, &calls, &callback);
  if (dune_plugin_call(plugin, dune_plugin_symbol(plugin, "sum_with"), "l(ppl)", &error, &sum,
                       callback, room, 4L) == 0)
    printf("sum: %ld, in %d calls of the host\n", sum, calls);
  dune_plugin_free(plugin);
}

// One that means no good.
static void attack(const char* library) {
  static volatile long secret = 42;
  const struct dune_plugin_options options = {.deadline = 100000000};
  dune_plugin* plugin = load(library, &options);
  struct dune_plugin_error error;
  long stolen = 0;

  dune_plugin_snapshot(plugin);
  if (dune_plugin_call(plugin, dune_plugin_symbol(plugin, "peek"), "l(p)", &error, &stolen,
                       (dune_remote)(uintptr_t)&secret))
    printf("stopped: %s of %s, in %s\n", error.kind == DUNE_PLUGIN_FAULT ? "a fault" : "?",
           error.address == (uintptr_t)&secret ? "the secret" : "something else", error.symbol);
  dune_plugin_reset(plugin);
  if (dune_plugin_call(plugin, dune_plugin_symbol(plugin, "spin"), "v()", &error, NULL))
    printf("stopped: %s\n", error.text);
  dune_plugin_reset(plugin);
  int quotient = 0;
  if (dune_plugin_call(plugin, dune_plugin_symbol(plugin, "divide"), "i(ii)", &error, &quotient, 42,
                       6) == 0)
    printf("and after a reset it works again: 42 / 6 = %d\n", quotient);
  dune_plugin_free(plugin);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: hello-sandbox-c GOOD-PLUGIN EVIL-PLUGIN\n");
    return 2;
  }
  const int entered = dune_init_and_enter();
  if (entered) {
    fprintf(stderr, "hello-sandbox-c: no Dune mode: %s\n", strerror(-entered));
    return 1;
  }
  work(argv[1]);
  attack(argv[2]);
  return 0;
}

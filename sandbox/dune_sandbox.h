/* SPDX-License-Identifier: Apache-2.0
 *
 * dune_sandbox.h - sandbox/plugin.h for C: an untrusted library, called like one that is
 * trusted.  From C++ too, but plugin.h is nicer there.
 *
 *   struct dune_plugin_error error;
 *   dune_plugin *zlib;
 *   uint64_t sum;
 *   dune_init_and_enter();
 *   if (dune_plugin_load("libz.so.1", NULL, &zlib, &error))
 *     return complain(error.text);
 *   dune_remote crc32 = dune_plugin_symbol(zlib, "crc32");
 *   dune_remote room = dune_plugin_allocate(zlib, 4);
 *   dune_plugin_write(zlib, room, "data", 4);
 *   if (dune_plugin_call(zlib, crc32, "L(LpI)", &error, &sum, 0UL, room, 4U))
 *     return complain(error.text);
 *
 * Link with libdune-sandbox.a libdune.a -lseccomp -lelf -lstdc++ -pthread.
 *
 * Functions return 0 or a negative errno value.  What plugin.h says of threads, of the state
 * of a plugin after an error and of reset() holds here.  Precondition of everything: the
 * thread is in Dune mode (libdune/dune.h).
 */
#ifndef SANDBOX_DUNE_SANDBOX_H
#define SANDBOX_DUNE_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct dune_plugin dune_plugin;
/* An address in the sandbox.  Means nothing to the host but for the functions below. */
typedef uint64_t dune_remote;

/* Zero is the default of each field. */
struct dune_plugin_options {
  uint64_t memory_limit;          /* bytes; 256 MiB */
  uint64_t deadline;              /* of each call, in nanoseconds to about 10 ms; none */
  uint64_t cpu_budget;            /* the same, of CPU time */
  uint64_t load_deadline;         /* of loading; 30 s */
  const char* policy;             /* a file, a seccomp profile in the OCI runtime's JSON form */
  const char* const* readable;    /* paths that it can see beside the system's libraries,
                                     up to a NULL */
  const char* const* environment; /* "NAME=value", up to a NULL */
  int refuse_meltdown;            /* these two: PluginOptions of plugin.h */
  int clear_buffers;
};

enum dune_plugin_error_kind {
  DUNE_PLUGIN_OK,
  DUNE_PLUGIN_FAULT,    /* or another signal: signal, access, address, rip, symbol */
  DUNE_PLUGIN_POLICY,   /* a system call that the policy ends it for: call */
  DUNE_PLUGIN_DEADLINE, /* rip, symbol */
  DUNE_PLUGIN_CPU_TIME, /* rip, symbol */
  DUNE_PLUGIN_MEMORY,   /* the limit: address, rip, symbol */
  DUNE_PLUGIN_EXITED,   /* status */
  DUNE_PLUGIN_OTHER,    /* nothing happened in ring 3, or ELOOP: only code and text */
};

struct dune_plugin_error {
  /* Positive: EFAULT, EACCES, ETIME, ENOMEM or ECANCELED for the kinds above; ELOOP: calls and
     callbacks nest too deeply; ESHUTDOWN: the rest speaks of an earlier call, since which nobody
     called dune_plugin_reset(). */
  int code;
  enum dune_plugin_error_kind kind;
  int signal;
  int status;
  int call;         /* number of the system call */
  char access;      /* 'r', 'w', 'x', of a page fault; else 0 */
  uint64_t address; /* of a page fault */
  uint64_t rip;
  char symbol[128]; /* "libevil.so: parse+0x4b1", cut off if need be, as text is */
  char text[256];   /* one line */
};

/* `library`: a path, a name that the dynamic linker looks for, or the path of a static program
   (plugin.h).
   -ENOENT, -ENOEXEC, -ENOMEM, -ETIME, -EFAULT (a constructor crashed), -ECANCELED (it exited),
   -EACCES (policy), -EPERM (not in Dune mode), -EINVAL (policy file).  `options` and `error` may
   be NULL here and everywhere. */
int dune_plugin_load(const char* library, const struct dune_plugin_options* options,
                     dune_plugin** plugin, struct dune_plugin_error* error);
/* NULL: does nothing. */
void dune_plugin_free(dune_plugin* plugin);

/* 0: it has none of that name. */
dune_remote dune_plugin_symbol(dune_plugin* plugin, const char* name);

/* Calls.  `signature` is the function's type, RESULT(ARGUMENTS), by one letter each:
 *
 *   v  void     ?  bool      c C  int8_t, uint8_t     s S  int16_t, uint16_t
 *   f  float    d  double    i I  int32_t, uint32_t   l L  int64_t, uint64_t
 *   p  dune_remote           {...}  a structure of these, by value: "{dd}"
 *
 * The result goes to *result, which has that type; NULL: not wanted.  Arguments follow as in
 * an ordinary call, but structures by a pointer to them.
 * -EINVAL: no signature.  -E2BIG: more than 4 KiB of arguments. */
int dune_plugin_call(dune_plugin* plugin, dune_remote function, const char* signature,
                     struct dune_plugin_error* error, void* result, ...);
/* The same with a pointer to each argument, for callers that find out types at run time. */
int dune_plugin_call_array(dune_plugin* plugin, dune_remote function, const char* signature,
                           struct dune_plugin_error* error, void* result,
                           const void* const* arguments);

/* Memory of the sandbox, by its own malloc(); 0: it has none left, or is broken. */
dune_remote dune_plugin_allocate(dune_plugin* plugin, size_t bytes);
void dune_plugin_release(dune_plugin* plugin, dune_remote at);
/* Copies.  -EFAULT: the sandbox itself could not read or write there. */
int dune_plugin_read(dune_plugin* plugin, dune_remote at, void* to, size_t bytes);
int dune_plugin_write(dune_plugin* plugin, dune_remote at, const void* from, size_t bytes);
/* Memory that both use directly, each at its own address; gone with the plugin, or when
   dune_plugin_reset() goes back to before, which leaves the content of older ones alone.  What
   ring 3 writes there may change while it is read.  -ENOMEM. */
int dune_plugin_share(dune_plugin* plugin, size_t bytes, void** host, dune_remote* remote);
/* Pages that were written, for a collector in the host: what counts, plugin.h says.  harvest()
   returns how many spans of `spans` it has filled, in order of addresses; *more: call again.
   -EINVAL: they are not tracked.  -ESTALE: in a fork child.  -ENOMEM. */
struct dune_plugin_span {
  dune_remote start;
  uint64_t bytes;
};
int dune_plugin_track_writes(dune_plugin* plugin, int on);
int64_t dune_plugin_harvest(dune_plugin* plugin, struct dune_plugin_span* spans, size_t count,
                            int* more);
/* The number by which ring 3 has a duplicate of `fd`, or -EBADF, -EMFILE. */
int dune_plugin_give(dune_plugin* plugin, int fd);

/* A function of the host that ring 3 may call, at *at.  It finds pointers to its arguments
   and to room for the result, which is zeroed; it may call into the plugin again.  What it
   is given may be any nonsense.  -ENOSPC: 512 of them. */
typedef void (*dune_plugin_function)(dune_plugin* caller, void* result,
                                     const void* const* arguments, void* context);
int dune_plugin_export(dune_plugin* plugin, const char* signature, dune_plugin_function function,
                       void* context, dune_remote* at);

/* Freezes the state; goes back there, at the cost of what was written since; makes another
   instance from there, with all addresses the same.
   -EBUSY: a call is under way.  -EINVAL (the last two): there is no snapshot. */
int dune_plugin_snapshot(dune_plugin* plugin);
int dune_plugin_reset(dune_plugin* plugin);
int dune_plugin_spawn(const dune_plugin* from, dune_plugin** plugin);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif

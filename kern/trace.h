/* SPDX-License-Identifier: GPL-2.0-only */
/* trace.h - tracepoints (/sys/kernel/tracing/events/dune). */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dune

#if !defined(DUNE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DUNE_TRACE_H

#include <linux/tracepoint.h>
#include "vcpu.h"

TRACE_EVENT(dune_enter,
	TP_PROTO(struct dune_vcpu *vcpu),
	TP_ARGS(vcpu),
	TP_STRUCT__entry(
		__field(u32, dirty)
		__field(u32, event)
	),
	TP_fast_assign(
		__entry->dirty = vcpu->dirty;
		__entry->event = vcpu->dirty & DUNE_DIRTY_EVENT ? vcpu->event_info : 0;
	),
	TP_printk("dirty 0x%x event 0x%x", __entry->dirty, __entry->event)
);

/* rip is known for exits that are no forwarded call and no interrupt. */
TRACE_EVENT(dune_exit,
	TP_PROTO(struct dune_vcpu *vcpu),
	TP_ARGS(vcpu),
	TP_STRUCT__entry(
		__field(u32, reason)
		__field(u64, rip)
		__field(u64, rax)
		__field(u64, qualification)
	),
	TP_fast_assign(
		__entry->reason = vcpu->exit.reason;
		__entry->rip = vcpu->rip;
		__entry->rax = vcpu->run->gpr[DUNE_RAX];
		__entry->qualification = vcpu->exit.qualification;
	),
	TP_printk("reason %u rip 0x%llx rax 0x%llx qualification 0x%llx", __entry->reason,
		  __entry->rip, __entry->rax, __entry->qualification)
);

TRACE_EVENT(dune_ept_fault,
	TP_PROTO(struct dune_vcpu *vcpu, u32 access, int ret),
	TP_ARGS(vcpu, access, ret),
	TP_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, gla)
		__field(u64, rip)
		__field(u32, access)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->gpa = vcpu->exit.gpa;
		__entry->gla = vcpu->exit.gla;
		__entry->rip = vcpu->rip;
		__entry->access = access;
		__entry->ret = ret;
	),
	TP_printk("gpa 0x%llx gla 0x%llx rip 0x%llx access %u ret %d", __entry->gpa,
		  __entry->gla, __entry->rip, __entry->access, __entry->ret)
);

TRACE_EVENT(dune_invalidate,
	TP_PROTO(unsigned long start, unsigned long end, unsigned long zapped),
	TP_ARGS(start, end, zapped),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned long, zapped)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->zapped = zapped;
	),
	TP_printk("0x%lx-0x%lx zapped %lu", __entry->start, __entry->end, __entry->zapped)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>

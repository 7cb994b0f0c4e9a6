/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin_image.S - plugin_host/main.c, linked, as bytes.
 */
	.section .rodata
	.balign 16
	.globl dune_plugin_host_start
	.globl dune_plugin_host_end
dune_plugin_host_start:
	.incbin PLUGIN_HOST
dune_plugin_host_end:
	.section .note.GNU-stack, "", @progbits

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OLD_STYLE_H
#define OLD_STYLE_H
#ifdef __cplusplus
extern "C" {
#endif
struct old_style_test {
  const char* name;
  int (*run)(void); /* 0: as it should be */
};
/* Ends with a null name.  Run in this order: the first enters Dune mode. */
extern const struct old_style_test old_style_tests[];
#ifdef __cplusplus
}
#endif
#endif

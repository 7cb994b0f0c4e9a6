# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: grep gcc make /usr/include/stdc-predef.h as ld ar ranlib /usr/lib/gcc/x86_64-linux-gnu/12/cc1 /usr/lib/gcc/x86_64-linux-gnu/12/collect2 /usr/lib/gcc/x86_64-linux-gnu/12/liblto_plugin.so /usr/lib/gcc/x86_64-linux-gnu/12/crtbeginS.o /usr/lib/gcc/x86_64-linux-gnu/12/crtendS.o /usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a /usr/lib/gcc/x86_64-linux-gnu/12/libgcc_s.so /usr/lib/x86_64-linux-gnu/Scrt1.o /usr/lib/x86_64-linux-gnu/crti.o /usr/lib/x86_64-linux-gnu/crtn.o /usr/lib/x86_64-linux-gnu/libc.so /usr/lib/x86_64-linux-gnu/libc_nonshared.a /usr/lib/x86_64-linux-gnu/libc.so.6 /usr/lib/x86_64-linux-gnu/libgcc_s.so.1
# cost: 30
# timeout: 900
. "${0%/*}/../prologue"
cat > part.h <<'END'
int printf(const char*, ...);
unsigned long sum(const unsigned char* p, unsigned long n);
END
cat > part.c <<'END'
#include "part.h"
unsigned long sum(const unsigned char* p, unsigned long n) {
  unsigned long s = 5381;
  for (unsigned long i = 0; i < n; i++) s = s * 33 + p[i];
  return s;
}
END
cat > main.c <<'END'
#include "part.h"
static const char text[] = "compiled here";
int main(int argc, char** argv) {
  printf("%s: %lu, %d\n", text, sum((const unsigned char*)text, sizeof(text)), argc);
  return argv[0][0] == '.' ? 3 : 4;
}
END
cat > Makefile <<'END'
CFLAGS := -O2 -Wall
program: main.o libpart.a ; $(CC) -o $@ $^
libpart.a: part.o ; $(AR) rcD $@ $^
main.o part.o: part.h
END
make -s -j2 CC=gcc || exit
./program one two; echo "program $?"
echo 'int main(void) { return undeclared; }' > wrong.c
gcc -c wrong.c 2>&1 | grep -c "error: 'undeclared'"; echo "gcc ${PIPESTATUS[0]}"

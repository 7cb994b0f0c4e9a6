# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: python3 /usr/lib/python3.11
. "${0%/*}/../prologue"
cat > p.py <<'END'
import concurrent.futures, ctypes, faulthandler, hashlib, json, mmap, os, queue, re, signal, subprocess, sys, threading, time
print(hashlib.sha256(json.dumps({str(i): i ** 2 for i in range(2000)}).encode()).hexdigest())
ticks = []
signal.signal(signal.SIGALRM, lambda *a: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while len(ticks) < 10: time.sleep(0.005)
signal.setitimer(signal.ITIMER_REAL, 0)
q = queue.Queue()
threads = [threading.Thread(target=lambda i=i: q.put(i * i)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(q.get() for _ in threads))
with concurrent.futures.ThreadPoolExecutor(4) as pool: print(sum(pool.map(lambda x: x * x, range(200))))
print(subprocess.run(["echo", "child"], capture_output=True).stdout, subprocess.run("exit 3", shell=True).returncode)
print(subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]).returncode)
m = mmap.mmap(-1, 1 << 20); m[:5] = b"hello"; pid = os.fork()
if pid == 0: m[0:1] = b"J"; os._exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), m[:5])
print(ctypes.CDLL(None).abs(-5), re.sub(r"(\w+) (\w+)", r"\2 \1", "hello world"))
p = subprocess.run([sys.executable, "-X", "faulthandler", "-c", "import ctypes; ctypes.string_at(0)"], capture_output=True, text=True)
print(p.returncode, p.stderr.splitlines()[0])
def handler(*a): raise KeyboardInterrupt
signal.signal(signal.SIGUSR1, handler)
try: os.kill(os.getpid(), signal.SIGUSR1); time.sleep(1)
except KeyboardInterrupt: print("interrupted")
END
python3 p.py

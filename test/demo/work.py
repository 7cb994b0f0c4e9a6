# SPDX-License-Identifier: Apache-2.0
"""Text, JSON, compression, hashes, threads and a child process."""
import hashlib
import json
import os
import subprocess
import sys
import threading
import zlib

words = [f"word{i * i % 997}" for i in range(4000)]
count = {}
for word in words:
    count[word] = count.get(word, 0) + 1
text = json.dumps(dict(sorted(count.items())))
packed = zlib.compress(text.encode())
assert zlib.decompress(packed).decode() == text
print(len(text), len(packed), hashlib.sha256(packed).hexdigest()[:16])

total, lock = 0, threading.Lock()


def add(numbers):
    global total
    for number in numbers:
        with lock:
            total += number


threads = [threading.Thread(target=add, args=(range(i, 2000, 4),)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("threads added", total)

child = subprocess.run(["/bin/echo", "a child says hello"], stdout=subprocess.PIPE, check=True)
print(child.stdout.decode().strip())

pid = os.fork()
if pid == 0:
    os._exit(sum(range(10)))
print("fork child returned", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
sys.exit(3)

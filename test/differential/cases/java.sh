# SPDX-License-Identifier: Apache-2.0
# needs: /usr/lib/jvm/java-17-openjdk-amd64/bin/java /usr/lib/jvm/java-17-openjdk-amd64/lib /usr/lib/jvm/java-17-openjdk-amd64/conf /etc/java-17-openjdk grep
# timeout: 2400
# cost: 250
# A JVM: a large reserved heap, a JIT, null pointers and full stacks found by SIGSEGV, safepoints.
. "${0%/*}/../prologue"
ulimit -c 0
cat > Work.java <<'END'
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.*;

public class Work {
  static final class Node { Node left, right; int key; Object[] load = new Object[8]; Node(int k) { key = k; } }
  static Node insert(Node n, int k) {
    if (n == null) return new Node(k);
    if (k < n.key) n.left = insert(n.left, k); else n.right = insert(n.right, k);
    return n;
  }
  static long sum(Node n) { return n == null ? 0 : n.key + sum(n.left) + sum(n.right); }
  static int depth(int n) { return depth(n + 1) + 1; }
  static String text;

  public static void main(String[] args) throws Exception {
    Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
    Random random = new Random(42);
    Node tree = null;
    for (int i = 0; i < 20000; i++) {
      tree = insert(tree, random.nextInt(1000000));
      if (i % 10 == 0) tree.load[i / 10 % 8] = new byte[2000];
    }
    System.out.println("tree " + sum(tree));
    long faults = 0;
    for (int i = 0; i < 3000; i++) try { faults += text.length(); } catch (NullPointerException e) { faults++; }
    System.out.println("null pointers " + faults);
    try { depth(0); } catch (StackOverflowError e) { System.out.println("stack overflow"); }
    try { System.out.println(new int[1 << 30].length); } catch (OutOfMemoryError e) { System.out.println("out of memory"); }
    ExecutorService pool = Executors.newFixedThreadPool(8);
    AtomicLong total = new AtomicLong();
    Object monitor = new Object();
    long[] guarded = {0};
    List<Future<Integer>> futures = new ArrayList<>();
    for (int t = 0; t < 16; t++) {
      final int n = t;
      futures.add(pool.submit(() -> {
        Map<String, Integer> map = new HashMap<>();
        for (int i = 0; i < 400; i++) {
          map.merge("k" + i % 37, i * n, Integer::sum);
          total.addAndGet(i);
          synchronized (monitor) { guarded[0] += n; }
        }
        return map.values().stream().mapToInt(Integer::intValue).sum();
      }));
    }
    long all = 0;
    for (Future<Integer> f : futures) all += f.get();
    pool.shutdown();
    System.out.println("threads " + pool.awaitTermination(100, TimeUnit.SECONDS) + " " + all + " " + total + " " + guarded[0]);
    System.gc();
    System.out.println("after gc " + sum(tree));
    System.out.println(IntStream.range(0, 5000).parallel().filter(i -> i % 7 == 3).mapToLong(i -> (long) i * i).sum());
    Path file = Path.of("mapped");
    try (FileChannel c = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
      ByteBuffer b = c.map(FileChannel.MapMode.READ_WRITE, 0, 100000);
      for (int i = 0; i < 100000; i++) b.put(i, (byte) (i * 7));
    }
    ByteBuffer direct = ByteBuffer.allocateDirect(1 << 20);
    direct.putLong(12345, 77);
    System.out.println(Files.size(file) + " " + direct.getLong(12345));
    Process p = new ProcessBuilder("sh", "-c", "read x; echo got $x; exit 7").redirectErrorStream(true).start();
    p.getOutputStream().write("line\n".getBytes());
    p.getOutputStream().close();
    System.out.println(new String(p.getInputStream().readAllBytes()).trim() + " " + p.waitFor());
    if (args.length > 0) { System.out.println("waiting"); Thread.sleep(1000000); }
    System.exit(3);
  }
}
END
java="/usr/lib/jvm/java-17-openjdk-amd64/bin/java -Xmx128m"
$java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -m jdk.compiler/com.sun.tools.javac.Main -d . Work.java; echo "javac $?"
$java -XX:+UseG1GC Work; echo "G1 $?"
$java -XX:+UseZGC Work; echo "Z $?"
$java -XX:+UseSerialGC Work wait > said.log & pid=$!
until grep -q waiting said.log; do sleep 0.2; kill -0 $pid || break; done
kill $pid; wait $pid; echo "terminated $?"; cat said.log

# SPDX-License-Identifier: Apache-2.0
# needs: guile-3.0 /usr/lib/x86_64-linux-gnu/guile /usr/lib/x86_64-linux-gnu/gconv /usr/share/guile grep cat
# cost: 150
# options: --gc-dirty
# timeout: 1800
. "${0%/*}/../prologue"
cat > p.scm <<'END'
(use-modules (srfi srfi-1) (srfi srfi-9) (ice-9 match) (ice-9 rdelim) (ice-9 threads))
;; Long-lived trees and tables that short-lived garbage is hung into.
(define-record-type node (make-node key left right) node?
  (key node-key) (left node-left set-node-left!) (right node-right set-node-right!))
(define (insert! tree key)
  (if (< key (node-key tree))
      (if (node-left tree) (insert! (node-left tree) key) (set-node-left! tree (make-node key #f #f)))
      (if (node-right tree) (insert! (node-right tree) key) (set-node-right! tree (make-node key #f #f)))))
(define (keys tree) (if tree (append (keys (node-left tree)) (cons (node-key tree) (keys (node-right tree)))) '()))
(define seed 42)
(define (random! n) (set! seed (modulo (+ (* seed 1103515245) 12345) 2147483648)) (modulo (quotient seed 8) n))
(define tree (make-node 500000 #f #f))
(define table (make-hash-table))
(do ((i 0 (+ i 1))) ((= i 6000))
  (insert! tree (random! 1000000))
  (hash-set! table (random! 700) (list i (number->string i) (make-vector 20 i))))
(let ((all (keys tree))) (format #t "~a ~a ~a\n" (length all) (apply + all) (equal? all (sort all <))))
(format #t "~a\n" (hash-fold (lambda (k v sum) (+ sum k (car v) (string->number (cadr v)) (vector-ref (caddr v) 19))) 0 table))
(define (queens n)
  (let try ((row 1) (placed '()))
    (if (> row n) 1
        (fold (lambda (column sum)
                (if (any (lambda (q) (let ((c (car q)) (r (cdr q))) (or (= c column) (= (abs (- c column)) (- row r))))) placed)
                    sum (+ sum (try (+ row 1) (cons (cons column row) placed)))))
              0 (iota n 1)))))
(format #t "~a\n" (queens 6))
(define (digits-of-pi n)   ; Gibbons
  (let loop ((q 1) (r 0) (t 1) (k 1) (m 3) (x 3) (n n) (out '()))
    (cond ((= n 0) (reverse out))
          ((< (+ (* 4 q) (- r t)) (* m t))
           (loop (* q 10) (* 10 (- r (* m t))) t k (- (quotient (* 10 (+ (* 3 q) r)) t) (* 10 m)) x (- n 1) (cons m out)))
          (else (loop (* q k) (* (+ (* 2 q) r) x) (* t x) (+ k 1)
                      (quotient (+ (* q (+ (* 7 k) 2)) (* r x)) (* t x)) (+ x 2) n out)))))
(format #t "~a\n" (digits-of-pi 120))
(define (simplify e)
  (match e
    (('+ 0 x) (simplify x)) (('* 1 x) (simplify x)) (('* 0 _) 0)
    ((op a b) (let ((s (list op (simplify a) (simplify b)))) (if (equal? s e) e (simplify s))))
    (x x)))
(format #t "~a\n" (simplify '(+ (* 1 (+ 0 a)) (* (* 0 b) (+ c 0)))))
(define port (open-input-string (string-join (map number->string (iota 3000)) "\n")))
(format #t "~a\n" (let loop ((sum 0)) (let ((line (read-line port))) (if (eof-object? line) sum (loop (+ sum (string->number line)))))))
(define threads (map (lambda (i) (call-with-new-thread (lambda () (length (let loop ((n 2000) (l '())) (if (= n 0) l (loop (- n 1) (cons (make-string 10 #\x) l)))))))) (iota 3)))
(format #t "~a\n" (map join-thread threads))
(force-output)
(let ((pid (primitive-fork)))
  (if (= pid 0)
      (begin (format #t "child ~a\n" (length (keys tree))) (force-output) (primitive-_exit 3))
      (format #t "~a\n" (status:exit-val (cdr (waitpid pid))))))
(format #t "~a\n" (apply + (keys tree)))
END
run() { guile-3.0 --no-auto-compile p.scm; }
run
GC_ENABLE_INCREMENTAL=1 run
GC_ENABLE_INCREMENTAL=1 GC_PRINT_STATS=1 guile-3.0 --no-auto-compile -c '(display 1)' > stats.log 2>&1
grep -ao 'Using soft-dirty bit feature' stats.log

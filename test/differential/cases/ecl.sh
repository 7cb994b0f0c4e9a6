# SPDX-License-Identifier: Apache-2.0
# needs: ecl /usr/lib/x86_64-linux-gnu/ecl-21.2.1 grep cat
# cost: 100
# options: --gc-dirty
# timeout: 1800
. "${0%/*}/../prologue"
cat > p.lisp <<'END'
(defstruct node key left right)
(defun insert (tree key)
  (cond ((null tree) (make-node :key key))
        ((< key (node-key tree)) (setf (node-left tree) (insert (node-left tree) key)) tree)
        (t (setf (node-right tree) (insert (node-right tree) key)) tree)))
(defun keys (tree) (when tree (append (keys (node-left tree)) (cons (node-key tree) (keys (node-right tree))))))
(defvar *seed* 42)
(defun random! (n) (setf *seed* (mod (+ (* *seed* 1103515245) 12345) 2147483648)) (mod (floor *seed* 8) n))
(defvar *tree* (make-node :key 500000))
(defvar *table* (make-hash-table))
(dotimes (i 2500)
  (insert *tree* (random! 1000000))
  (setf (gethash (random! 500) *table*) (list i (format nil "~d" i) (make-array 20 :initial-element i))))
(let ((all (keys *tree*)))
  (format t "~a ~a ~a~%" (length all) (reduce #'+ all) (equal all (sort (copy-list all) #'<))))
(let ((sum 0))
  (maphash (lambda (k v) (incf sum (+ k (first v) (parse-integer (second v)) (aref (third v) 19)))) *table*)
  (format t "~a~%" sum))
(defun factorial (n) (if (< n 2) 1 (* n (factorial (- n 1)))))
(format t "~a~%" (mod (factorial 400) 1000000007))
(handler-case (error "caught") (error (e) (format t "~a~%" e)))
(defclass shape () ((name :initarg :name :reader name)))
(defclass square (shape) ((side :initarg :side)))
(defgeneric area (s))
(defmethod area ((s square)) (expt (slot-value s 'side) 2))
(format t "~a~%" (loop for i below 200 sum (area (make-instance 'square :name (gensym) :side i))))
(format t "~a~%" (with-output-to-string (s) (dolist (w '("one" "two" "three")) (format s "~:(~a~) " w))))
(format t "~a~%" (reduce #'+ (keys *tree*)))
(ext:quit 0)
END
run() { ecl --norc --shell p.lisp; }
run
GC_ENABLE_INCREMENTAL=1 run
GC_ENABLE_INCREMENTAL=1 GC_PRINT_STATS=1 ecl --norc --eval '(ext:quit 0)' > stats.log 2>&1
grep -ao 'Using soft-dirty bit feature' stats.log

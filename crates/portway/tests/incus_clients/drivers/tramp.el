;; TRAMP against the gateway. PLACE is its prefix of a file there, HERE a folder of this machine.
(require 'tramp)
(setq tramp-verbose 1
      tramp-auto-save-directory temporary-file-directory
      tramp-persistency-file-name nil
      make-backup-files nil)
(let* ((place (getenv "PLACE"))
       (here (file-name-as-directory (getenv "HERE")))
       (note (concat place "/root/note"))
       (text "first line\n\tsecond: \"quoted\" 'too' $HOME `pwd` \\ €\n")
       (coding-system-for-write 'utf-8)
       (default-directory (concat place "/root/")))
  (write-region text nil note)
  (with-temp-buffer
    (insert-file-contents note)
    (unless (equal (buffer-string) text) (error "A text is another: %S" (buffer-string))))
  (unless (= (process-file "sh" nil nil nil "-c" "exit 3") 3) (error "A status is another"))
  (let ((said (shell-command-to-string "id -un; pwd; printf 'a\\nb'")))
    (unless (equal said "root\n/root\na\nb") (error "A command says %S" said)))
  (copy-file (concat here "big") (concat place "/root/big") t)
  (copy-file (concat place "/root/big") (concat here "back") t)
  (unless (member "note" (directory-files (concat place "/root"))) (error "A file is not listed"))
  (rename-file note (concat place "/root/renamed"))
  (set-file-modes (concat place "/root/renamed") #o640)
  (unless (= (file-modes (concat place "/root/renamed")) #o640) (error "Modes are others"))
  ;; Beside the shell that it types into.
  (with-temp-buffer
    (let ((beside (start-file-process "beside" (current-buffer) "sh" "-c" "echo beside; sleep 0.2; echo twice")))
      (set-process-sentinel beside #'ignore)
      (while (process-live-p beside) (accept-process-output beside 1))
      (while (accept-process-output beside 0.2))
      (unless (string-match-p "beside\\(.\\|\n\\)*twice" (buffer-string)) (error "A process says %S" (buffer-string)))))
  (delete-file (concat place "/root/renamed"))
  (princ "done\n"))

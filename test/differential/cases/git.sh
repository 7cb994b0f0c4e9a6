# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: git /usr/lib/git-core/git seq
# cost: 30
. "${0%/*}/../prologue"
export GIT_AUTHOR_DATE='@1000000000 +0000' GIT_COMMITTER_DATE='@1000000000 +0000' GIT_CONFIG_NOSYSTEM=1
git -c init.defaultBranch=main init -q .
git config user.name n; git config user.email e; git config gc.auto 0; git config core.pager cat
for i in 1 2 3 4; do seq $i $((i * 50)) > f$i; git add .; git commit -qm "commit $i"; done
git log --format='%h %s'; git diff --stat HEAD~2; git checkout -q -b b HEAD~1; echo x > f1; git commit -qam b
git merge -q main -m m; git log --format=%h -1; git fsck 2>&1; git repack -adq; git gc -q; git status -s; git rev-parse HEAD

# SPDX-License-Identifier: Apache-2.0
# sandbox
# needs: perl /usr/share/perl /usr/lib/x86_64-linux-gnu/perl-base /usr/share/perl5
. "${0%/*}/../prologue"
perl -e 'my %h; $h{$_ % 7} += $_ for 1..20000; print "$_ $h{$_}\n" for sort keys %h'
perl -e '$SIG{ALRM} = sub { die "alarm\n" }; alarm 1; eval { 1 while 1 }; print $@'
perl -e '$SIG{USR1} = sub { print "usr1\n" }; $| = 1; kill USR1 => $$; defined(my $p = fork) or die; if (!$p) { exit 7 } waitpid $p, 0; print $? >> 8, "\n"'
perl -e 'open my $f, "-|", "echo from child" or die; print <$f>; print join(",", map { sprintf "%.6f", sin $_ } 1..5), "\n"'
perl -pe 's/(\w+)/\u$1/g' <<< 'some words here'

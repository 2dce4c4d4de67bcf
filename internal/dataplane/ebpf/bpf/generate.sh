#!/bin/sh
# Compiles the programs. Needs clang 14 and libbpf-dev of Debian 12; the result is committed, so that builds need neither.
set -eu
cd "$(dirname "$0")"
out=${1:-kedge.o}
clang -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-address-of-packed-member -Wno-sign-compare \
	-idirafter "/usr/include/$(uname -m)-linux-gnu" -fdebug-compilation-dir=. -fdebug-prefix-map="$PWD"=. -c kedge.c -o "$out"
llvm-strip -g "$out"

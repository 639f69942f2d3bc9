#!/bin/sh
# Runs the cases of tests/cli/ with the program given: each folder has `cmd`, shell lines that use
# lqbuild, and the files they print: `stdout`, `stderr` (missing: nothing) and `exit` (missing: 0).
# A case runs in a copy of its folder with an empty home and cache. `t lqbuild ...` in it prints the
# words, what they print on both streams, and their exit code.
#   cli.sh PROGRAM [--update] [CASE...]
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
update=no
if [ "${1-}" = --update ]; then
    update=yes
    shift
fi
cases=$(cd "$(dirname "$0")" && pwd)/cli
root=$(dirname "$(dirname "$cases")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
ln -s "$program" "$work/bin/lqbuild"
cat > "$work/prelude" << 'END'
t() {
    echo "\$ $*"
    code=0
    "$@" 2>&1 || code=$?
    [ "$code" -eq 0 ] || echo "exit $code"
}
END
[ $# -gt 0 ] || set -- $(cd "$cases" && ls)

# Times and places differ from run to run and machine to machine; nothing else may.
normalise() {
    sed -e 's/,"peak_memory_bytes":[0-9]*//' -e 's/ in [0-9][0-9]*\.[0-9][0-9] s$/ in T s/' -e "s|$work/run|RUN|g" -e "s|$root|ROOT|g" \
        -e 's/"wall_seconds":[0-9.e-]*/"wall_seconds":T/' -e 's/"seconds":[0-9.e-]*/"seconds":T/' \
        -e 's/ [0-9.]* m\{0,1\}s$/ T/' -e 's/"duration_seconds": *[0-9.e-]*/"duration_seconds":T/' \
        "$1"
}

passed=0
failed=0
for name in "$@"; do
    rm -rf "$work/run" "$work/home"
    cp -R "$cases/$name" "$work/run"
    mkdir "$work/home"
    rm -f "$work/run/stdout" "$work/run/stderr" "$work/run/exit"
    status=0
    (cd "$work/run" && env -i PATH="$work/bin:/usr/bin:/bin" HOME="$work/home" LC_ALL=C \
        TERM=dumb EXAMPLES="$root/examples" ASAN_OPTIONS="${ASAN_OPTIONS-}" sh -c ". $work/prelude; . ./cmd" \
        > "$work/out" 2> "$work/err" < /dev/null) || status=$?
    normalise "$work/out" > "$work/stdout"
    normalise "$work/err" > "$work/stderr"
    echo "$status" > "$work/exit"
    if [ $update = yes ]; then
        for stream in stdout stderr; do
            rm -f "$cases/$name/$stream"
            [ ! -s "$work/$stream" ] || cp "$work/$stream" "$cases/$name/$stream"
        done
        rm -f "$cases/$name/exit"
        [ $status -eq 0 ] || cp "$work/exit" "$cases/$name/exit"
        continue
    fi
    good=yes
    echo 0 > "$work/exit.default"
    : > "$work/stdout.default"
    : > "$work/stderr.default"
    for stream in stdout stderr exit; do
        expected=$cases/$name/$stream
        [ -f "$expected" ] || expected=$work/$stream.default
        diff -u "$expected" "$work/$stream" || good=no
    done
    if [ $good = yes ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "not ok: $name"
    fi
done
echo "# $passed passed, $failed failed"
[ $failed -eq 0 ]

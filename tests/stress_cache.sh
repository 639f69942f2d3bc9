#!/bin/sh
# Many builds on one cache: killed at any moment, beside collectors of garbage, on a disk that fills
# up, on a data file in which bytes are flipped. Afterwards the cache is sound and every output is
# what a clean build makes.
#   stress_cache.sh LQBUILD MODEL [ROUNDS]       (10 rounds; STRESS_SEED repeats a run)
set -eu
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
model=$(cd "$2" && pwd)
rounds=${3:-10}
builders=20
seed=${STRESS_SEED:-$(date +%s)}
base=/tmp
[ -w /dev/shm ] && base=/dev/shm
work=$(mktemp -d "$base/lqstress-XXXXXX")
mounted=no
cleanup() {
    [ "$mounted" = no ] || umount "$work/disk" || true
    rm -rf "$work"
}
trap cleanup EXIT
echo "seed $seed"
unset LQBUILD_CACHE_DIR LQBUILD_CACHE_MAX_SIZE MAKEFLAGS

fail() {
    echo "FAILED: $*"
    exit 1
}

# random N: a number below N.
state=$seed
random() {
    state=$(( (state * 1103515245 + 12345) % 2147483648 ))
    value=$(( state / 65536 % $1 ))
}

write_project() {
    mkdir -p "$1"
    cat > "$1/recipe.lq" << END
model m { source = "$model" }
gguf q4 { model = m level = "Q4_0" path = "q4.gguf" }
gguf q8 { model = m level = "Q8_0" path = "q8.gguf" }
command one { run = "seq 1 300000 > \$out" outputs = ["one"] }
command two { run = "seq 5 200000 > \$out" outputs = ["two"] }
command both { run = "cat \$in > \$out" inputs = [one, two, q4] outputs = ["both"] }
END
}

same_outputs() {
    for file in q4.gguf q8.gguf one two both; do
        cmp -s "$1/$file" "$work/clean/$file" || fail "$2: $file differs from a clean build"
    done
}

verify() {
    "$program" cache verify --cache-dir "$1" > "$work/verified" 2>&1 ||
        fail "$2: $(cat "$work/verified")"
}

write_project "$work/clean"
"$program" -q -j2 -C "$work/clean" --cache-dir "$work/clean-cache"
i=0
while [ $i -lt $builders ]; do
    write_project "$work/p$i"
    i=$((i + 1))
done

# keep: somebody looks after the cache meanwhile, in one of several ways. kept WHEN: it went well, or
# it was killed, or it found that others are at work, or not everything was built.
keep() {
    random 4
    case $value in
    0) words="verify" ;;
    1) words="compact" ;;
    2) words="repair" ;;
    3) words="export both -o $work/both.lqb -C $work/p0" ;;
    esac
    # shellcheck disable=SC2086
    "$program" cache $words --cache-dir "$cache" > "$work/keep.log" 2>&1 &
    keeper=$!
}
kept() {
    code=0
    wait "$keeper" 2> "$work/null" || code=$?
    case $code in
    0 | 137) ;;
    8)
        grep -q "has it open\|not everything is built\|no longer in the cache" "$work/keep.log" ||
            fail "$1, cache $words: $(cat "$work/keep.log")"
        ;;
    *) fail "$1, cache $words: exit $code: $(cat "$work/keep.log")" ;;
    esac
}

# ---- builds that are killed, and a collector beside them ----
cache=$work/cache
round=0
killed=0
while [ "$round" -lt "$rounds" ]; do
    pids=
    i=0
    keep
    while [ $i -lt $builders ]; do
        rm -f "$work/p$i/q4.gguf" "$work/p$i/q8.gguf" "$work/p$i/one" "$work/p$i/both"
        # Half of them write the larger files once only, and find those of others changed or gone.
        LQBUILD_TEST_LARGE_BYTES=$((i % 2 == 0 ? 100000 : 100000000)) \
            "$program" -q -j1 -C "$work/p$i" --cache-dir "$cache" > "$work/p$i/log" 2>&1 &
        pids="$pids $i:$!"
        i=$((i + 1))
    done
    "$program" cache gc --max-size 1M --cache-dir "$cache" > "$work/gc.log" 2>&1 &
    collector=$!
    random 400
    sleep "0.$(printf %03d "$value")"
    victims=
    for entry in $pids; do
        random 2
        if [ "$value" -eq 0 ]; then
            kill -9 "${entry#*:}" 2> "$work/null" && killed=$((killed + 1))
            victims="$victims ${entry%:*} "
        fi
    done
    random 3
    [ "$value" -ne 0 ] || kill -9 "$collector" 2> "$work/null" || true
    random 3
    [ "$value" -ne 0 ] || kill -9 "$keeper" 2> "$work/null" || true
    for entry in $pids; do
        code=0
        wait "${entry#*:}" 2> "$work/null" || code=$?
        i=${entry%:*}
        case $victims in
        *" $i "*) ;;
        *)
            [ "$code" -eq 0 ] || fail "round $round: build $i exits $code: $(cat "$work/p$i/log")"
            same_outputs "$work/p$i" "round $round, build $i"
            ;;
        esac
    done
    wait "$collector" 2> "$work/null" || true
    kept "round $round"
    if [ $((round % 5)) -eq 4 ]; then
        verify "$cache" "round $round"
        rm -rf "$cache.old"
        mv "$cache" "$cache.old"
    fi
    round=$((round + 1))
done
"$program" -q -j2 -C "$work/p0" --cache-dir "$cache"
same_outputs "$work/p0" "after all rounds"
verify "$cache" "after all rounds"
echo "$rounds rounds of $builders builds, $killed killed"

# ---- a disk that fills up ----
mkdir "$work/disk"
code=0
rm -f "$work"/p1/q* "$work"/p1/one "$work"/p1/both
if mount -t tmpfs -o size=1536k none "$work/disk" 2> "$work/null"; then
    mounted=yes
    kind="a file system of 1.5 MB"
    "$program" -q -j2 -C "$work/p1" --cache-dir "$work/disk/cache" > "$work/full.log" 2>&1 || code=$?
else
    kind="files of at most 1 MB"
    (trap '' XFSZ && ulimit -f 2048 &&
        "$program" -q -j2 -C "$work/p1" --cache-dir "$work/disk/cache") > "$work/full.log" 2>&1 ||
        code=$?
fi
[ "$code" -ne 0 ] && [ "$code" -lt 128 ] || fail "full disk: exit $code: $(cat "$work/full.log")"
grep -q "no space left\|File too large" "$work/full.log" || fail "full disk: $(cat "$work/full.log")"
verify "$work/disk/cache" "full disk"
[ "$mounted" = no ] || mount -o remount,size=64m "$work/disk"
"$program" -q -j2 -C "$work/p1" --cache-dir "$work/disk/cache"
same_outputs "$work/p1" "after the disk had room again"
verify "$work/disk/cache" "after the disk had room again"
echo "full disk ($kind): exit $code, then whole"

# ---- flipped bytes ----
# repair WHEN: what could not be used can be used again.
repaired=0
repair() {
    code=0
    "$program" cache repair --cache-dir "$work/flip" > "$work/repair.log" 2>&1 || code=$?
    if [ "$code" -eq 8 ] && grep -q "it has format" "$work/repair.log"; then
        return
    fi
    [ "$code" -eq 0 ] || fail "$1, repair: exit $code: $(cat "$work/repair.log")"
    verify "$work/flip" "$1, after the repair"
    "$program" -q -j2 -C "$work/p2" --cache-dir "$work/flip" > "$work/repair.log" 2>&1 ||
        fail "$1, after the repair: $(cat "$work/repair.log")"
    same_outputs "$work/p2" "$1, after the repair"
    repaired=$((repaired + 1))
}

"$program" -q -j2 -C "$work/p2" --cache-dir "$work/good"
size=$(stat -c %s "$work/good/data.mdb")
healed=0
refused=0
round=0
while [ "$round" -lt $((2 * rounds)) ]; do
    rm -rf "$work/flip"
    cp -r "$work/good" "$work/flip"
    rm -f "$work"/p2/q* "$work"/p2/one "$work"/p2/both
    flips=0
    while [ $flips -lt 20 ]; do
        random 32768
        at=$value
        random 32768
        at=$(( (at * 32768 + value) % size ))
        # Trees begin at the beginning.
        [ $((round % 3)) -ne 0 ] || at=$((at % 200000))
        printf '\252' | dd of="$work/flip/data.mdb" bs=1 seek=$at conv=notrunc 2> "$work/null"
        flips=$((flips + 1))
    done
    code=0
    "$program" -q -j2 -C "$work/p2" --cache-dir "$work/flip" > "$work/flip.log" 2>&1 || code=$?
    case $code in
    0)
        same_outputs "$work/p2" "flips, round $round"
        healed=$((healed + 1))
        ;;
    8)
        grep -q "damaged\|belongs to another\|format" "$work/flip.log" ||
            fail "flips, round $round: $(cat "$work/flip.log")"
        refused=$((refused + 1))
        repair "flips, round $round"
        ;;
    *) fail "flips, round $round: exit $code: $(cat "$work/flip.log")" ;;
    esac
    round=$((round + 1))
done
echo "flipped bytes: healed $healed times, refused $refused times, of which repaired $repaired"

#!/bin/sh
# Every header compiles alone, with the flags of the tree, and opens with a paragraph about itself.
# A *_body.h is a template, compiled by each file that includes it: of it only the paragraph is asked.
#   headers_alone.sh ROOT COMPILER [FLAG...]
set -eu
root=$1
shift
cd "$root"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/check" <<'SCRIPT'
#!/bin/sh
header=$1
shift
case $header in
*_body.h) template=yes ;;
*) template=no ;;
esac
if [ $template = no ] && ! printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
    "$@" -std=c11 -I. -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wshadow -Wconversion -Werror \
        -fsyntax-only -x c -; then
    echo "$header: does not compile alone"
    exit 1
fi
if [ "$(head -c 3 "$header")" != "/* " ]; then
    echo "$header: does not open with a paragraph about itself"
    exit 1
fi
SCRIPT
chmod +x "$work/check"

# The check must be able to fail.
printf '/* A header that needs another. */\nextern size_t lq_unknown;\n' > "$work/bad.h"
if "$work/check" "$work/bad.h" "$@" > "$work/log" 2>&1; then
    echo "a header that does not compile alone was accepted"
    exit 1
fi

find engine cache kernels rules -name '*.h' | sort > "$work/list"
count=$(wc -l < "$work/list")
failed=0
tr '\n' '\0' < "$work/list" | xargs -0 -P 2 -I '{}' "$work/check" '{}' "$@" || failed=1
echo "$count headers"
exit $failed

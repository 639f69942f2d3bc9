# Shell functions shared by tests/run.sh and examples/quickstart.sh; read with ".".
# Packages are asked for by their Debian names. Nothing is downloaded when nothing is missing.

# What building needs; OpenBLAS is loaded at run time.
LQ_BUILD_PACKAGES="gcc libc6-dev make cmake pkg-config liblmdb-dev libcjson-dev libssl-dev
    libpcre2-dev libopenblas0-pthread"
# What the tests need on top.
LQ_TEST_PACKAGES="libcriterion-dev"

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null || true)" = installed ]
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        echo "these packages need root or sudo: $missing" >&2
        return 1
    fi
}

# install_missing PACKAGE...
install_missing() {
    if ! command -v dpkg-query > /dev/null; then
        echo "not a Debian system: make sure that you have the equivalents of: $*" >&2
        return 0
    fi
    missing=
    for package in "$@"; do
        is_installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    echo "installing:$missing" >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        $missing >&2
}

# Shell functions shared by tests/run.sh and examples/quickstart.sh; read with ".".
# Packages are asked for by their Debian names. Nothing is downloaded when nothing is missing.

# What building needs; OpenBLAS is loaded at run time.
LQ_BUILD_PACKAGES="gcc libc6-dev make cmake pkg-config liblmdb-dev libcjson-dev libssl-dev libcurl4-openssl-dev
    libpcre2-dev libutf8proc-dev libopenblas0-pthread"
# What the tests need on top.
LQ_TEST_PACKAGES="libcriterion-dev nginx-light"

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null || true)" = installed ]
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
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
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo > /dev/null; then
        echo "missing packages and neither root nor sudo to install them; as root, run:" \
            "apt-get install --no-install-recommends$missing" >&2
        return 1
    fi
    echo "installing:$missing" >&2
    # A source that cannot be reached matters only if a package is then not found.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
    # A machine that has just started may be upgrading itself: wait for it.
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 $missing >&2
}

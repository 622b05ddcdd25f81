#!/bin/sh
# Makes the virtual environment DIR, or says what is missing and how to get it. Needs no root.
#     scripts/make_venv.sh DIR
# PYTHON names the interpreter; by default it is the first of python3, python3.14 … python3.11 that is new enough.
set -eu

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

suits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

[ $# -eq 1 ] || fail "usage: scripts/make_venv.sh DIR"
[ "$(uname)" = Linux ] || fail "UniModel runs on Linux; this is $(uname)."

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if suits "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "UniModel needs Python 3.11 or newer; ${PYTHON:-python3} is not. Install it, or name it:" \
    "    make quickstart PYTHON=/path/to/python3.12"

"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv. On Debian and Ubuntu it is a package of its own:" \
        "    sudo apt-get install -y $(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv"

echo "making $1 with $("$python" --version)"
"$python" -m venv --clear "$1"

# Sourced by ./demo and ./test: make .venv when missing and install what is asked for, once.
# A stamp in .venv named after the hash of all requirement files lets the next run start at once.

say() { echo "$@" >&2; }
die() { say "$@"; exit 1; }

as_root() { # run a command as root if that needs no password
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

apt_install() { # apt_install "what for" package...
    local why=$1; shift
    command -v apt-get >/dev/null || die "$why: please install the equivalent of these Debian packages: $*"
    say "Installing $* ($why)"
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2 ||
        die "$why: please run: sudo apt-get install $*"
}

find_python() { # a Python from 3.11 to 3.13; $PYTHON wins. 3.11 is the least that the pinned packages run on.
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"; return
        fi
    done
    die "Python 3.11, 3.12 or 3.13 is needed${PYTHON:+; PYTHON=$PYTHON is not one}. Install one (Debian: apt-get install python3 python3-venv) or set PYTHON."
}

make_venv() {
    [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null && return
    local python
    python=$(find_python) || exit 1
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install "Python's venv module is missing" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    say "Making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || die "Could not make .venv with $python."
}

setup() { # setup demo|test
    export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
    local hash stamp
    hash=$(cat requirements.txt CTGenCore/pyproject.toml .ci/setup.sh | cksum | tr ' ' -)
    stamp=.venv/.ctgen-$1-$hash
    [ -e "$stamp" ] || [ -e ".venv/.ctgen-test-$hash" ] && .venv/bin/python -c '' 2>/dev/null && return
    make_venv
    say "Installing what ./$1 needs into .venv (once; some minutes)"
    if [ "$1" = test ]; then
        .venv/bin/python -m pip install -q -r requirements.txt >&2 || die "Installing requirements.txt failed; see above."
    else
        grep -v '^-e' requirements.txt > .venv/pins.txt
        .venv/bin/python -m pip install -q -c .venv/pins.txt -e ./CTGenCore >&2 || die "Installing CTGenCore failed; see above."
    fi
    touch "$stamp"
}

graphics_libraries() { # the system libraries that Qt offscreen and VTK load
    [ "$(uname -s)" = Linux ] || return 0
    local known pair missing=()
    known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p)
    for pair in libGL.so.1:libgl1 libEGL.so.1:libegl1 libX11.so.6:libx11-6 libxkbcommon.so.0:libxkbcommon0 libdbus-1.so.3:libdbus-1-3 \
        libfontconfig.so.1:libfontconfig1 libglib-2.0.so.0:libglib2.0-0 libfreetype.so.6:libfreetype6; do
        case $known in *"${pair%%:*}"*) ;; *) missing+=("${pair##*:}") ;; esac
    done
    [ ${#missing[@]} = 0 ] || apt_install "The Slicer tests need graphics libraries" "${missing[@]}"
}

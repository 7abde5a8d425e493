#!/usr/bin/env bash
# Make a virtual environment that runs every stage on the CPU:  setup.sh [--dependencies-only] VENV
# Linux x86-64 and Python 3.11, which is what the pinned engine wheel is built for.
# --dependencies-only leaves this project itself out, as images do: it is mounted when a stage runs.
set -euo pipefail
project=yes
if [ "${1:-}" = --dependencies-only ]; then project=; shift; fi
venv=${1:?usage: setup.sh [--dependencies-only] VENV}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3.11}

fail() { printf 'setup: %s\n' "$1" >&2; exit 4; }
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the CPU engine is built for Linux x86-64 only"
command -v "$python" >/dev/null || fail "no $python: install Python 3.11, or name one with PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$python is not Python 3.11"
"$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || fail "libnuma.so.1 is missing: apt-get install libnuma1 (Debian, Ubuntu), dnf install numactl-libs (Fedora)"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps)

# The engine wants torch in its CPU build, which PyTorch's own index has.
if ! "$venv/bin/python" -c 'import sys, importlib.metadata as m; sys.exit(not m.version("torch").endswith("+cpu"))' 2>/dev/null; then
  "${pip[@]}" --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0
fi
"${pip[@]}" -r "$here/requirements.txt"
[ -z "$project" ] || "${pip[@]}" -e "$here/../.."
"$venv/bin/python" -c 'import torch, sys; sys.exit("+cpu" not in torch.__version__)' || fail "torch is not the CPU build: the engine would not start"

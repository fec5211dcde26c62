#!/usr/bin/env bash
# Build the programs of Kubernetes from the Go modules: one binary, told apart by the name it is called by; and `pause`,
# the process that holds a pod's namespaces. Prints the folder that holds the programs named as arguments (all, where none
# is named). Takes about seven minutes on two cores the first time, nothing afterwards.
#
# Nothing is built where KUBEBUILDER_ASSETS names a folder with all that is wanted. Such a folder usually holds only etcd,
# kube-apiserver and kubectl: enough for tests of the API server, and a whole cluster is built beside it.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
version=1.34.4
go_minor_min=24   # what k8s.io/kubernetes v1.34 asks for
cache=${XDG_CACHE_HOME:-$HOME/.cache}/egressgw/kube-$version
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=("${programs[@]}" pause)

has_all() {
  local name
  for name in "${wanted[@]}"; do [ -x "$1/$name" ] || return 1; done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for name in kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$name" ] || { echo "KUBEBUILDER_ASSETS: there is no $name in $KUBEBUILDER_ASSETS" >&2; exit 1; }
  done
  if has_all "$KUBEBUILDER_ASSETS"; then
    echo "$KUBEBUILDER_ASSETS"
    exit
  fi
fi

mkdir -p "$cache"
# One builder at a time; the others wait and find its work.
exec 9>"$cache/lock"
flock 9
if has_all "$cache"; then
  echo "$cache"
  exit
fi

go=$("$here/find_go.sh" $go_minor_min "$cache")

source=$cache/source
rm -rf "$source"
mkdir -p "$source/pause"
cd "$source"
export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-mod=mod GOWORK=off

cat > pause/main.go <<'GO'
// The first process of a pod: it holds the namespaces, reaps orphans and ends when it is told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
GO

cat > main.go <<'GO'
// One program for the whole set: the name it is called by says which.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var commands = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-proxy":              proxy.NewProxyCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	name := filepath.Base(os.Args[0])
	command, known := commands[name]
	if !known {
		fmt.Fprintln(os.Stderr, "call it by the name of one of its programs, such as kube-apiserver")
		os.Exit(2)
	}
	if name == "kubectl" {
		// It prints its own errors, and ends with the status of what it ran.
		if err := cli.RunNoErrOutput(command()); err != nil {
			kubectlutil.CheckErr(err)
		}
		return
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
nice -n 19 "$go" build -trimpath -ldflags "-s -w" -o "$cache/pause.new" ./pause >&2
mv "$cache/pause.new" "$cache/pause"
nice -n 19 "$go" build -trimpath -ldflags "-s -w $stamp" -o "$cache/kube-all.new" . >&2
mv "$cache/kube-all.new" "$cache/kube-all"
for name in "${programs[@]}"; do
  ln -sfn kube-all "$cache/$name"
done
rm -rf "$source"
echo "$cache"

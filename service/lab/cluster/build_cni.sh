#!/usr/bin/env bash
# Build the network programs of CNIs from their Go modules: `flannel` (its daemon flanneld and its plugin flannel) and
# `kube-router`; the ones named as arguments, all where none is named. Prints the folder of each. Takes some four minutes
# each on two cores the first time, nothing afterwards.
#
# Each is built in a copy of its module with the module's own go.mod and go.sum, so one checksum pins all that goes in.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
go_minor_min=26   # what flannel asks for
cache=${XDG_CACHE_HOME:-$HOME/.cache}/egressgw
wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(flannel kube-router)

# fetch MODULE@VERSION CHECKSUM FOLDER: a copy of the module that can be written to.
fetch() {
  local answer sum folder
  answer=$(cd / && "$go" mod download -json "$1")
  sum=$(sed -n 's/.*"Sum": "\(.*\)".*/\1/p' <<<"$answer")
  folder=$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<<"$answer")
  [ "$sum" = "$2" ] || { echo "$1 has the checksum $sum instead of $2" >&2; exit 1; }
  cp -r "$folder" "$3"
  chmod -R u+w "$3"
}

# compile FOLDER PACKAGE PROGRAM FLAGS: into the cache, whole or not at all.
compile() {
  (cd "$1" && nice -n 19 "$go" build -mod=readonly -trimpath -ldflags "-s -w $4" -o "$target/$3.new" "$2" >&2)
  mv "$target/$3.new" "$target/$3"
}

build_flannel() {
  fetch "github.com/flannel-io/flannel@v$1" h1:jt+uW6XVV01MBb3YFahG7Ue9UE3W6zlNlJMf3JtdcXI= "$source/flannel"
  # One backend needs cgo and one a cloud's library that cannot be had everywhere. Neither is of use here; a module of
  # nothing takes the library's place in the list of what is required.
  local absent=github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/vpc
  sed -i '/pkg\/backend\/\(tencentvpc\|udp\)"$/d' "$source/flannel/main.go"
  mkdir "$source/absent"
  echo "module $absent" >"$source/absent/go.mod"
  (cd "$source/flannel" && "$go" mod edit -replace "$absent=../absent")
  compile "$source/flannel" . flanneld "-X github.com/flannel-io/flannel/pkg/version.Version=v$1"
  # flannel-io/cni-plugin is not to be had as a module; this is the last release of its former home. It reads what
  # flanneld has written and hands over to the plugin `bridge`.
  local plugins=github.com/containernetworking/plugins@v0.9.1
  fetch $plugins h1:FD1tADPls2EEi3flPc2OegIY1M9pUa9r2Quag7HMLV8= "$source/plugins"
  compile "$source/plugins" ./plugins/meta/flannel flannel ""
}

build_kube_router() {
  local module=github.com/cloudnativelabs/kube-router/v2
  fetch "$module@v$1" h1:xWsptKtmZ44L+NjwFKoFAFlVdxCz8fka9A/eYJe95Ok= "$source/kube-router"
  compile "$source/kube-router" ./cmd/kube-router kube-router "-X $module/pkg/version.Version=v$1"
}

# provide NAME VERSION BUILDER PROGRAM...: say where the programs are; build them where one is not.
provide() {
  local name=$1 version=$2 builder=$3
  target=$cache/$name-$version
  shift 3
  mkdir -p "$target"
  # One builder at a time; the others wait and find its work.
  exec 9>"$target/lock"
  flock 9
  local program missing=
  for program in "$@"; do [ -x "$target/$program" ] || missing=yes; done
  if [ -n "$missing" ]; then
    go=$("$here/find_go.sh" $go_minor_min "$target")
    source=$target/source
    rm -rf "$source"
    mkdir "$source"
    $builder "$version"
    rm -rf "$source"
  fi
  exec 9>&-
  echo "$target"
}

export GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS= GOWORK=off
for name in "${wanted[@]}"; do
  case $name in
    flannel) provide flannel 0.28.10 build_flannel flanneld flannel ;;
    kube-router) provide kube-router 2.1.0 build_kube_router kube-router ;;
    *) echo "$name: flannel and kube-router can be built" >&2; exit 2 ;;
  esac
done

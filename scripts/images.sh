#!/bin/sh
# Builds the platform's four images with docker, podman or buildah, whichever works here.
#
#   scripts/images.sh                          forebay-gateway:VERSION, -controller, -runtime, -valkey
#   REGISTRY=registry.example.com/team …       named for a registry and pushed to it
#   PLATFORMS=linux/amd64,linux/arm64 …        for several architectures; needs REGISTRY
#   PYTHON_IMAGE=python:3.12-slim …            another base of gateway, controller and runtime
#   BASE_IMAGE=debian:trixie-slim …            another base of the Valkey image
#   COMPONENTS=runtime TAG=0.1.0-python3.12 …  only this one, under another tag
#   BUILDER="buildah --storage-driver vfs" …   this tool, with its own options
#   BUILD_OPTIONS="--network host" …           options of each build
set -eu
cd "$(dirname "$0")/.."

# Kubernetes reads a name without a registry as one of Docker's; podman and buildah would call it localhost's.
LIBRARY=docker.io/library
REGISTRY=${REGISTRY:-}
PLATFORMS=${PLATFORMS:-}
BUILD_OPTIONS=${BUILD_OPTIONS:-}

fail() {
  echo "$1" >&2
  exit 1
}

find_builder() {
  if docker info >/dev/null 2>&1; then
    echo docker
  elif command -v podman >/dev/null; then
    echo podman
  elif command -v buildah >/dev/null; then
    echo buildah
  else
    fail "building images needs docker (with its daemon running), podman or buildah: install one of them"
  fi
}

# Where a component's Dockerfile is.
folder() {
  case $1 in
    runtime | valkey) echo "$1-image" ;;
    *) echo "$1" ;;
  esac
}

name() {
  if [ -n "$REGISTRY" ]; then
    echo "$REGISTRY/forebay-$1:$TAG"
  elif [ "$TOOL" = docker ]; then
    echo "forebay-$1:$TAG"
  else
    echo "$LIBRARY/forebay-$1:$TAG"
  fi
}

# What a component's Dockerfile builds on.
base() {
  case $1 in
    valkey) echo "BASE_IMAGE=$BASE_IMAGE" ;;
    *) echo "PYTHON_IMAGE=$PYTHON_IMAGE" ;;
  esac
}

# Builds one component; its status is the first failure's. What is unquoted is meant to be several words, or none.
build() {
  image=$(name "$1")
  set -- --file "$(folder "$1")/Dockerfile" --build-arg "VERSION=$VERSION" --build-arg "$(base "$1")" $BUILD_OPTIONS
  if [ -z "$PLATFORMS" ]; then
    $BUILDER build "$@" --tag "$image" . && if [ -n "$REGISTRY" ]; then $BUILDER push "$image"; fi
  elif [ "$TOOL" = docker ]; then
    $BUILDER buildx build "$@" --platform "$PLATFORMS" --tag "$image" --push .
  else
    # Of an earlier build, whose images it would go on to list.
    $BUILDER manifest rm "$image" >/dev/null 2>&1 || true
    $BUILDER build "$@" --platform "$PLATFORMS" --manifest "$image" . &&
      $BUILDER manifest push --all "$image" "docker://$image"
  fi
}

BUILDER=${BUILDER:-$(find_builder)}
TOOL=${BUILDER%% *}
VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' common/forebay_common/__init__.py)
TAG=${TAG:-$VERSION}
COMPONENTS=${COMPONENTS:-gateway controller runtime valkey}
if [ -n "$PLATFORMS" ] && [ -z "$REGISTRY" ]; then
  fail "images for several platforms are pushed where they are built: set REGISTRY as well"
fi
prefix=""
if [ "$TOOL" != docker ]; then prefix=$LIBRARY/; fi
PYTHON_IMAGE=${PYTHON_IMAGE:-${prefix}python:3.13-slim}
BASE_IMAGE=${BASE_IMAGE:-${prefix}debian:trixie-slim}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for component in $COMPONENTS; do
  echo "building $(name $component) with $TOOL ..."
  build $component >"$log" 2>&1 || {
    cat "$log" >&2
    fail "$(name $component) could not be built: the reason is above"
  }
done
if [ -n "$PLATFORMS" ]; then exit 0; fi
echo
for component in $COMPONENTS; do
  printf '%-50s %s\n' "$(name $component)" "$($BUILDER images --format '{{.Size}}' "$(name $component)" | head -n 1)"
done

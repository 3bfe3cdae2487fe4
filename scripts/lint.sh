#!/bin/sh
# The linters of .golangci.yml. golangci-lint is built at a fixed version where it is missing, into build/.
set -eu
version=v2.15.0
tool=$(command -v golangci-lint || echo build/golangci-lint)
if ! "$tool" version 2>/dev/null | grep -q "${version#v}"; then
    mkdir -p build
    GOBIN=$(pwd)/build go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
    tool=build/golangci-lint
fi
tool=$(realpath "$tool")
for module in . compat buildkit; do
    (cd $module && go vet ./... && "$tool" run --config "$OLDPWD/.golangci.yml" ./...)
done

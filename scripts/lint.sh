#!/bin/sh
# gofmt, vet and staticcheck with errors of their own where the code breaks the rules. Tools come by "go run" at fixed versions.
set -eu
unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { printf 'not formatted:\n%s\n' "$unformatted"; exit 1; }
go vet ./...
go run honnef.co/go/tools/cmd/staticcheck@2026.1 ./...

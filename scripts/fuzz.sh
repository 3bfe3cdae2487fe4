#!/bin/sh
# Fuzz every target of the project for a time (default 60s), one after the other. Ends with the first finding.
set -eu
time=${1:-60s}
for module in . compat buildkit; do
    (
        cd $module
        go list ./... | while read -r pkg; do
            go test -list '^Fuzz' "$pkg" | { grep '^Fuzz' || true; } | while read -r target; do
                echo "$pkg $target"
                go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x "$pkg"
            done
        done
    )
done

//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// replaceProcess turns this process into another program. It returns only if that is impossible.
func replaceProcess(path string, args []string) error { return unix.Exec(path, args, os.Environ()) }

//go:build unix

package main

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// usage returns the CPU seconds and the peak memory of the process.
func usage() (cpu float64, peak int64) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0, 0
	}
	peak = int64(u.Maxrss)        //nolint:unconvert // 32 bits on some systems
	if runtime.GOOS != "darwin" { // where it is in bytes
		peak <<= 10
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, peak
}

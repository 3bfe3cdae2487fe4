//go:build !linux

package lsmt

// dataRuns is [scanData] where the system tells nothing of holes.
func dataRuns(f File, from, to int64, fn func(begin, end int64)) error {
	return scanData(f, from, to, fn)
}

// discard makes bytes of a file zeros.
func discard(f File, off, n int64) error { return clearData(f, off, n) }

//go:build !unix

package main

import "errors"

// replaceProcess turns this process into another program, which this system cannot do.
func replaceProcess(string, []string) error { return errors.ErrUnsupported }

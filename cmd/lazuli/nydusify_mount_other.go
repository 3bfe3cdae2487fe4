//go:build !linux

package main

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (n *nydusifyApp) mountCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mount", Short: "Mount the nydus image as a filesystem (on Linux only)", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("mount on %s: %w", runtime.GOOS, errors.ErrUnsupported)
		},
	}
}

package main

import "github.com/spf13/cobra"

// platformCommands are those that need Linux.
func (a *app) platformCommands() []*cobra.Command {
	return []*cobra.Command{a.mountCommand(), a.umountCommand(), a.runCommand(), a.differCommand()}
}

package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"
)

// dropIn is a program that lazuli stands in for: called by its name, through a symbolic link, or as "lazuli NAME". It has that
// program's flags, output and exit codes.
type dropIn struct {
	name, short string
	// run gets the arguments behind the name and returns the exit code.
	run func(a *app, ctx context.Context, args []string) int
}

func dropIns() []dropIn {
	return []dropIn{
		{"nydus-image", "Build, check and inspect RAFS file systems with the flags of nydus-image", (*app).nydusImage},
		{"convertor", "Convert images to overlaybd and turboOCI with the flags of overlaybd's convertor", (*app).convertor},
		{"nydusify", "Convert, check, mount and copy Nydus images with the flags of nydusify", (*app).nydusify},
		{"overlaybd-create", "Create a writable layer with the flags of overlaybd-create", (*app).overlaybdCreate},
		{"overlaybd-apply", "Apply a layer to a disk with the flags of overlaybd-apply", (*app).overlaybdApply},
		{"overlaybd-commit", "Finish a writable layer with the flags of overlaybd-commit", (*app).overlaybdCommit},
		{"overlaybd-merge", "Merge the layers of a disk with the flags of overlaybd-merge", (*app).overlaybdMerge},
		{"overlaybd-zfile", "Make and read ZFiles with the flags of overlaybd-zfile", (*app).overlaybdZFile},
		{"turboOCI-apply", "Apply a layer to a disk that refers to it with the flags of turboOCI-apply", (*app).turboOCIApply},
	}
}

// arguments returns the arguments of a call, whose first is the program's name. The name of a drop-in becomes the sub-command.
func arguments(args []string) []string {
	if len(args) == 0 {
		return nil
	}
	name := filepath.Base(args[0])
	for _, d := range dropIns() {
		if d.name == name {
			return append([]string{name}, args[1:]...)
		}
	}
	return args[1:]
}

// dropInCommands are the drop-ins as sub-commands. They parse their flags themselves.
func (a *app) dropInCommands() []*cobra.Command {
	programs := dropIns()
	cmds := make([]*cobra.Command, 0, len(programs))
	for _, d := range programs {
		cmds = append(cmds, &cobra.Command{
			Use:                d.name + " [ARG]...",
			Short:              d.short,
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				if code := d.run(a, cmd.Context(), args); code != exitDone {
					return &exitError{code}
				}
				return nil
			},
		})
	}
	return cmds
}

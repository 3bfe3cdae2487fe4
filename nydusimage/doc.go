// Package nydusimage does what the sub-commands of nydus-image 2.4 do, for programs that start that one today: it builds layers
// from tars and directories, merges, checks, unpacks, inspects, exports, compacts and optimizes bootstraps with their blobs. One
// function and one Options struct stand for each sub-command. Paths and streams go in; files are written whole or not at all,
// except into pipes; and what a sub-command prints goes to the writer that it is given.
//
// The work is done by package formats/nydus and what is below it; command lines are for cmd/lazuli. What is not possible
// (yet, or at all) is refused by its name with [blob.ErrUnsupported]. docs/nydus.md lists every flag.
package nydusimage

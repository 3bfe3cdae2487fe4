// Package overlaybdtools does what the tools of overlaybd do (overlaybd-create, -apply, -commit, -merge, -zfile and
// turboOCI-apply), for programs that start those today: accelerated-container-image's converter and snapshotter. One function and
// one Options struct stand for each tool. They work on the tools' files: a writable layer of a virtual disk is made, a tar is
// applied to the disk that it forms with the layers below, and the layer is committed to what images have.
//
// Finished layers appear under their names when they are complete. Applying changes the writable layer in place: if it fails, that one
// is of no use any more.
//
// The formats are those of package formats/overlaybd and what is below it, the file systems those of package disk; command lines are
// for cmd/lazuli. What is not possible is refused by its name with [blob.ErrUnsupported]: layers in registries, uploads, qcow2.
// A configuration of the overlaybd service is not needed. docs/overlaybd.md lists every flag.
package overlaybdtools

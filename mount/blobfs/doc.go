// Package blobfs is a FUSE server of a few flat, read-only files: the plain spaces of blobs, which the kernel's EROFS
// reads through its device= option.
//
// It speaks the FUSE protocol (7.31 and newer) on /dev/fuse itself: a dozen operations, no state but the list of files,
// whose place in the list is their node id. Nothing is kept for an open file, so any process that has the descriptor and the
// same list could go on serving. The passthrough flag is not negotiated, because EROFS refuses to sit on a stacked file system.
//
// The mount serves its own process badly: a server that touches its mount waits for itself. Callers give the paths to
// the kernel and then detach the mount ([Server.Detach]); the kernel keeps the files open as long as it needs them, and when
// the last one is closed, [Server.Serve] returns.
package blobfs

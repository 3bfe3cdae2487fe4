// Package converter makes Nydus images of OCI images, and OCI images of Nydus images, in containerd's content store or as plain
// streams. Names, options and results are those of the package of the same path that calls nydus-image; the work is done here,
// in Go, by packages of github.com/lazuli-project/lazuli. No program is started, no environment variable is read, nothing is logged.
//
// A build takes it up with two lines in its go.mod, and no change in any source:
//
//	replace github.com/containerd/nydus-snapshotter => github.com/lazuli-project/lazuli/compat VERSION
//	replace github.com/lazuli-project/lazuli => github.com/lazuli-project/lazuli VERSION
//
// [Pack], [Merge] and [Unpack] work on streams; [LayerConvertFunc], [ConvertHookFunc] and their reverse are for containerd's
// core/images/converter. All of them end soon when their context ends, leave no goroutine and no file behind, and report every
// failure. Functions may be called concurrently; the value that Pack returns may not.
//
// docs/compat.md says what differs from the original.
package converter

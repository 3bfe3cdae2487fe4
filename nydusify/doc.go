// Package nydusify does what the commands of nydusify 2.4 do with whole images, as far as no other package does it: its three
// rules of checking, prefetch blobs, and chunk dictionaries as images. Converting, copying, mounting and building are done by
// packages convert, store, mount and nydusimage, and command lines are for cmd/lazuli. docs/nydus.md lists every flag.
package nydusify

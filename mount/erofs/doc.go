// Package erofs mounts images whose tree is an EROFS image already: the kernel reads all metadata from that image itself, and
// the content of files from blobs that are given with the device= option, as files of package blobfs or, once they are complete,
// as plain files of the cache. Linux 6.12 or newer mounts EROFS from files.
package erofs

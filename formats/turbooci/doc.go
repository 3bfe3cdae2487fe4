// Package turbooci makes and reads images of turboOCI: the layers of an image stay as they are, and beside each lies a small one with
// the metadata of a file system whose content is in the original, and an index by which a gzip stream is read in pieces.
//
// A layer's blob is a tar, compressed, with erofs.fs.meta or ext4.fs.meta or both (the sectors that the layer changes on a virtual disk:
// an LSMT layer whose segments refer to the blob itself or to the original layer's tar, in a ZFile) and gzip.meta (the index, see
// gzindex). The reference is accelerated-container-image's convertor 1.4.3 with --turboOCI. The byte layout is in docs/formats/overlaybd.md.
package turbooci

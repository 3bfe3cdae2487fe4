// Package rafs5 reads and writes RAFS v5 bootstraps: the metadata of older Nydus images, which are an array of inodes, each with
// its name and the records of its chunks, and a tree of digests over all of it.
//
//	0      superblock, 8 KiB
//	8 KiB  inode table: where the record of each directory entry is; prefetch table; blob table; its extension
//	       inode records: 128 bytes, name, link target, attributes, chunk records
//
// [Parse] gives the tree and the blobs, all validated; [Build] makes a bootstrap of a tree. There is no I/O: a bootstrap is bytes
// in memory. All integers are little-endian. The byte layout is in docs/formats/nydus.md.
//
// A blob of such an image has no chunk table of its own, and its plain addresses need not be aligned. [Parse] makes a table of the
// chunk records, with a plain space in which every chunk begins at a multiple of 4 KiB: two bootstraps that use different
// chunks of one blob have different plain spaces for it.
package rafs5

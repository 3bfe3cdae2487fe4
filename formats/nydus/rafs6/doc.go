// Package rafs6 reads and writes RAFS v6 bootstraps: the metadata of a Nydus image, which are an EROFS file
// system with a device for each data blob, and tables of its own beside it.
//
//	0      zeros
//	1024   EROFS superblock, RAFS superblock, device slots
//	4 KiB  blob table (256 bytes a blob), prefetch table
//	       metadata area: 4 KiB left empty, then inodes with directories, link targets, attributes, chunk indexes
//	       chunk table: digest and place of every chunk that the files use (80 bytes a chunk)
//
// [Parse] gives the tree and the tables, all validated; [Build] makes a bootstrap of a tree. There is no I/O: a
// bootstrap is bytes in memory. All integers are little-endian. The byte layout is in docs/formats/nydus.md.
package rafs6

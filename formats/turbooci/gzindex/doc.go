// Package gzindex reads and writes the indexes of turboOCI (gzip.meta), by which the gzip stream of a layer is read in pieces.
//
// An index has access points, which are places behind blocks of the stream, with the 32 KiB of plain bytes before each:
//
//	0            header, 333 bytes
//	333          windows, each a zlib stream of 32 KiB
//	index start  access points, 29 bytes each, together a zlib stream
//
// A [Builder] makes one while a stream is inflated; [Parse] makes a [Layout] for package fetch of one. [NewPlain] maps a layer that is
// not compressed, of which there is no index.
//
// An index is of one gzip member: the reference's readers, and those who make indexes with it, stop at its end. So streams of several
// members are refused. The index has a checksum of its header, and none of what it describes. The format is described by
// overlaybd's gzindex/gzfile.cpp and gzfile_index.cpp.
package gzindex

// Package lsmt reads and writes the layers of overlaybd: parts of one virtual disk, in the form of a log-structured merge tree.
//
// A layer is a header, data, an index of [Segment]s that says which sectors of the disk the data is, and a trailer:
//
//	0             header, 4096 bytes
//	4096          data in sectors, in any order
//	index offset  segments of 16 bytes, in the order of the disk, maybe padded to a multiple of 256
//	size - 4096   trailer, 4096 bytes
//
// What a layer says nothing of shows the layer below, and zeros below the lowest. [Parse] reads a layer, [NewIndex] puts a stack of
// them together, and a [Device] reads the disk that they are. [AppendHeader], [Normalize] and [AppendTail] write a layer; [Merge],
// [Restack] and [Resize] change what is there. A [Writable] is a layer that is being written, in the files of
// overlaybd's tools.
//
// In a layer of turboOCI ("warp"), segments with [TagRemote] lie in another object, the tar of the layer that it stands for.
//
// The format has no digests. It is described by overlaybd's lsmt/file.cpp and lsmt/index.h. The package does no I/O but through
// the io.ReaderAt and the files that it is given.
package lsmt

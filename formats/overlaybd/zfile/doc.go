// Package zfile reads and writes ZFiles, the compressed files of overlaybd: blocks of one size, each compressed on its own.
//
//	0             header, 512 bytes
//	512           blocks, each with a CRC-32C of its stored bytes behind it
//	index offset  jump table: the stored length of each block with its checksum, u32
//	              trailer, 512 bytes
//
// A header that was overwritten when the file was complete says what the trailer says; else a reader has to look for that. [Open]
// gives a [Layout] for package fetch; a [Writer] compresses with several goroutines.
//
// All checksums are CRC-32C without the usual inversions. The format is described by overlaybd's zfile/zfile.cpp.
package zfile

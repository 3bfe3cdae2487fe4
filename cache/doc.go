// Package cache keeps the plain bytes of blobs in a local directory: those spans that were read and verified.
//
// Layout of the directory, one folder for each blob, named by its digest ("sha256-<hex>"):
//
//	blobs/KEY/data   the plain space, sparse; a span that is not present may hold anything
//	blobs/KEY/spans  header of 64 bytes, then one byte a span: 1 present, 0 not
//
//	header: off 0, 8 bytes: magic "LZLSPANS"; off 8, u32: version 1; off 12, u32: number of spans;
//	        off 16, u64: size of the plain space; off 24, 36 bytes: 0; off 60, u32: CRC32C of what is before
//
// Data is written before its mark, so a killed process leaves no mark without data. After a loss of power a mark
// may be there without its data, which is why readers verify a span on their first read of it and [Blob.Drop] it
// when it is damaged. A byte for each span, not a bit, lets processes share a folder without losing each other's marks.
//
// Nothing is ever served from here that the reader did not verify. All methods may be called concurrently.
package cache

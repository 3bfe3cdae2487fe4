// Package recompress turns what a DEFLATE stream knows of its content into zstd frames and LZ4 blocks.
//
// A compressor spends most of its time looking for matches, and a layer that comes as gzip has had that done. Package
// flate hands the matches out while it inflates; here they are checked, made longer where the other formats allow it, and
// written in the other format: what is left is to compare, and to code literals by Huffman and sequences by FSE.
//
// Matches that reach back before a chunk are lost to it, as chunks are decoded alone. Only there, and where the source
// has not been compressed, is there a search, a simple one. So content without any matches is better left to an ordinary
// encoder, which is about as fast then and finds more.
//
// What is written is ordinary: zstd frames (RFC 8878) of one segment with the content's size and without checksum and
// dictionary, and raw LZ4 blocks (lz4_Block_format.md of the reference implementation) with its rules for the last bytes.
package recompress

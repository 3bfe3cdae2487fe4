// Package flate decompresses image layers: gzip, zstd or none, told apart by their first bytes.
//
// [NewReader] is all that most callers need. Its DEFLATE decoder (RFC 1951) is the package's own, because
// inflating is the greatest part of the time that a conversion takes. It differs from the usual ones in
// these points:
//
//   - bits come from a 64-bit buffer that is refilled 8 bytes at a time, without a test per symbol;
//   - one look into a table of 11 bits gives a literal, or a match length with where its extra bits are;
//   - it decodes into a window that is handed out in large pieces, so that symbols need no test for
//     its end, and matches are copied in words;
//   - buffers are arrays whose indices are masked, so that the compiler leaves out its own tests, without package unsafe;
//   - input that ends is continued with zeros, and found to be cut off afterwards, so that there is no
//     second, careful loop.
//
// [NewTracingReader] tells more of gzip layers than their bytes, to writers of indexes and of other compressions: the matches
// that the compressor found ([Reader.AppendMatches]), which stored bytes became which plain ones ([Reader.StoredAt]), and
// where decoding can go on ([Reader.CheckpointAt]), all in the exact sense of zlib's inflate with Z_BLOCK, which the indexes of
// nydus, SOCI and turboOCI are made with. A [Resumer] decodes from such a place on:
//
//	c := r.CheckpointAt(off)
//	// later
//	err := resumer.Decode(plain, stored[c.Stored:], flate.Start{Bits: c.Bits, Byte: c.Byte, Window: c.Window()})
//
// Framing is strict. A gzip layer may have any number of members and zeros behind the last one (RFC 1952 and
// what gzip(1) accepts); a zstd layer any number of frames, also skippable ones (RFC 8878). What is cut off,
// fails its checksum, or has anything else behind it is refused with an error that wraps [blob.ErrCorrupt].
// Errors of the underlying reader are passed on wrapped.
package flate

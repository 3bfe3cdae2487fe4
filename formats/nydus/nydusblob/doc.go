// Package nydusblob reads and writes the parts of a Nydus data blob: the chunk table (called CI, "chunk
// information"), the sections with their trailing tar headers, the table of contents, and chunks in their codecs.
//
// A blob of a converted layer looks like this; headers follow what they describe, and nothing is padded:
//
//	chunks                     | tar header "image.blob"
//	chunk table, its header    | tar header "blob.meta"
//	digests of the chunks      | tar header "blob.digest"
//	bootstrap of the layer     | tar header "image.boot"
//	entries of 128 bytes       | tar header "rafs.blob.toc"
//
// The package knows no file system; that is in the bootstrap (packages rafs6 and the like). It does I/O only
// through a [blob.Source]. All integers are little-endian. The byte layout is in docs/formats/nydus.md.
package nydusblob

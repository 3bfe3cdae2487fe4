// Package blob describes random access to plain bytes that are stored in another form somewhere.
//
// A [Layout] is the chunk table of one stored object: it maps the object's plain space (uncompressed
// addresses) to stored [Span]s (what can be fetched and decoded on its own) and decodes and verifies
// them. A [Source] is the stored object itself: a registry blob, a file. Formats provide Layouts,
// stores provide Sources, and package fetch puts the two together into lazy, verified reads.
//
// Nothing here does network or disk I/O, and Layouts may be used by any number of goroutines.
package blob

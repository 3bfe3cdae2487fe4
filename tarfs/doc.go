// Package tarfs turns the tar stream of a layer into entries and a tree, lays the trees of an image's layers over
// each other, and writes a tree as a tar again.
//
// [Reader] parses a stream, [Builder] makes the layer's [tree.Tree] of its entries, [Overlay] and [Merge] apply
// the rules of OCI layers (whiteouts, opaque directories, hard links into lower layers) in one place, and
// [WriteTar] goes the other way. Nothing here knows an image format.
//
// A stream is read as container runtimes read it, that is, as Go's archive/tar does, since an image must be the same
// everywhere: two zero blocks end it, whatever comes behind them, global PAX headers are checked and not applied, and
// entries that can have no content have none whatever their size field says. Beyond that, LIBARCHIVE.xattr
// records and contiguous files are read, and what cannot be a file system is refused: see [Error].
//
// The formats are those of POSIX.1-2017 (pax, "ustar Interchange Format", "pax Interchange Format") and of the manual
// of GNU tar ("Tar Internals"); whiteouts are those of the OCI image specification (layer.md, "Representing Changes").
package tarfs

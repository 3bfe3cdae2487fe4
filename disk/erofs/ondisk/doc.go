// Package ondisk has the structures of EROFS that all its makers and readers share: inodes, extended attributes, entries of
// directories, as bytes and as values. It does no I/O and knows nothing of where structures are; packages disk/erofs and
// formats/nydus/rafs6 do.
//
// What it decodes may be anything: damage gives errors that wrap blob.ErrCorrupt, and what Linux knows and this package does not gives ones that
// wrap blob.ErrUnsupported. The format is that of Linux's fs/erofs/erofs_fs.h, little-endian.
package ondisk

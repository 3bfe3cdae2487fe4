// Package tree holds the files of an image, merged or of one layer, as plain values.
//
// A [Tree] is what every format reads into and writes from: directory entries that name [Node]s,
// nodes that carry the attributes of an inode, and for regular files [Extent]s, which say in which
// blob and where in its plain space the content lies. A tree holds no file content and does no I/O.
//
// Two directory entries that name the same *Node are hard links of each other. Directories are
// named once only. Entries of a directory are sorted by the bytes of their names.
//
// A tree that is not being changed may be read by any number of goroutines.
package tree

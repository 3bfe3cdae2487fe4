// Package fusefs mounts the whole tree of an image by FUSE: for kernels that do not mount EROFS from files, for images whose
// metadata is no EROFS image, and for ordinary users.
//
// The tree never changes, so node ids are numbers of nodes, nothing is kept for what is open or looked up, and the kernel may
// keep names, attributes, links, directories and pages for as long as it likes.
package fusefs

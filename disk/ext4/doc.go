// Package ext4 makes ext4 file systems of the layers of images, one layer over the other, and reads ext4 file systems. It is pure
// Go, and holds no file content: a [disk.Change] says which blocks of metadata a layer changes, and where on the disk its content lies.
//
//	fs, err := ext4.Create(ext4.Options{})
//	first, err := fs.Apply(lowest)  // with the empty file system
//	second, err := fs.Apply(above)
//
// [Open] goes on with a disk that exists already: one of ours, or one that mke2fs or overlaybd's tools made. Every decision depends on
// the layer and on what is on the disk and on nothing else, so a model that was read from a disk changes it as the one would that made it.
// [Read] gives the tree of a disk.
//
// # What is written
//
// Blocks of 4 KiB, inodes of 256 bytes, groups of 32768 blocks, one inode for 16 KiB; the features ext_attr, dir_index, sparse_super2, filetype,
// extents, 64bit, flex_bg, sparse_super, large_file, huge_file, uninit_bg, dir_nlink and extra_isize; no journal, no times. What is in no file
// yet is in no block: groups nobody uses are uninitialised, and there are no backups of the superblock (as of mke2fs -E num_backup_sb=0).
//
// The 1024 blocks behind the group descriptors stay free of everything, since overlaybd's own tools damage what lies
// there: they buffer writes in pieces of 128 KiB, except those of descriptors. A resize inode would keep them at the price of 4 MiB of
// pointers; here they belong to inode 5, the boot loader's, which nothing else uses.
//
// New blocks and inodes are taken behind the last ones in use, and freed ones only when those are used up. First comes the content of
// the layer's files, in the order in which it lies in blobs, as one run as far as the tables of the groups allow; then the directories
// and all other metadata. Directories change in place: what stays in a directory stays where it is.
//
// # Limits
//
// Times lie between 1901 and 2446, as the kernel's do on ext4; others become the nearest. Extended attributes that fit neither
// in the inode nor in one block are an error, as are more than 65000 names of one file. Attributes of namespaces that Linux does not know are stored
// in full, where the kernel does not see them and Read does.
//
// The layout is that of Linux (Documentation/filesystems/ext4, fs/ext4/ext4.h); what overlaybd's tools write is
// described in docs/formats/overlaybd.md.
package ext4

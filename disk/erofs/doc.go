// Package erofs makes and reads file systems of the EROFS format, as Linux defines it (fs/erofs/erofs_fs.h), in three ways.
//
// [FS] is an EROFS on a virtual disk to which layers are applied one by one, as turboOCI has them: metadata and content have addresses on
// one disk, and a layer brings only the blocks that it changes. [Read] gives the tree of any such file system that is not
// compressed. [Build] makes the metadata of a tree whose content lies in blobs, which Linux mounts with the blobs as devices.
//
// Every structure is little-endian:
//
//	1024   superblock, 128 bytes
//	       device slots of 128 bytes each, where there are devices
//	       inodes of 32 or 64 bytes, at multiples of 32 bytes; an inode's number (nid) is its place in that unit, counted from the
//	       metadata area. Behind an inode stand its extended attributes, and then chunk indexes, or the last bytes of a directory
//	       or of a link's target
//	       blocks of directories, of link targets, and of content
//
// A disk of [FS] has the root's inode behind the superblock, where it stays: its number has 16 bits. The rest of the first 65 blocks
// is kept free for its attributes. Behind that, each layer appends what is new, block by block: content in the order of the blob that
// it lies in, directories, the inodes of files, and blocks of directories. What a layer
// takes away is left where it is. A directory that changes is written in place as far as it has the room, so that what is above it
// stays as it is. All that a later layer has to know is on the disk: the superblock's number of blocks says where to go on.
//
// As no block is ever used twice, what no layer has written reads as zeros: in the last block of a file, and in its holes.
package erofs

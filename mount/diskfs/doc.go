// Package diskfs mounts images that are virtual disks as what they are: the disk is a file of our FUSE server, a loop device makes a
// block device of it, and the kernel mounts the file system on that. It is for those who want the very disk; mount/erofs is faster.
package diskfs

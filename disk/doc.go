// Package disk says what file systems on virtual disks have in common for those who make image layers of them: a layer of files goes
// in, and what it changes on the disk comes out.
//
// A [FileSystem] is a model in memory of the metadata of one disk. It holds no file content: content lies in blobs somewhere else,
// and a [Change] says which part of which blob is at which place of the disk. Packages disk/ext4 and disk/erofs implement it, and
// read trees out of disks.
package disk

// Package containerd reads images from a containerd daemon and writes images into it, over its API: [Opener] is for store.Options. Blobs
// go through package contentstore.
//
// Whatever is written is held by a lease, which is deleted once the image has its name, and otherwise expires: what a killed process
// leaves is garbage then, which containerd removes.
package containerd

// Package contentstore reads images from containerd's content stores and writes images into them: in process, as in BuildKit, or over
// containerd's API. It knows blobs by their digests only; names of images are its callers' business.
//
// Whoever calls gives a context with the namespace, and with a lease where garbage may be collected meanwhile: everything that a
// [Target] writes, and everything that it finds to be there, is then held by that lease. What an image consists of is noted in
// labels, so that it stays as long as the image itself.
package contentstore

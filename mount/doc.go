// Package mount mounts images: it chooses the way that the kernel and the image allow, puts an overlay on top where the mount
// shall be writable, and knows when it is over.
//
//	m, err := mount.New(ctx, im, "/mnt", mount.Options{Cache: c})
//	...
//	err = m.Wait() // until somebody unmounts /mnt, or m.Unmount is called
//
// Package mount/erofs is the best way, mount/fusefs the one that works nearly everywhere. [Mounted.Reason] says why the best one was
// not taken. A mount is served by its process until it is unmounted and nothing is open in it any more.
package mount

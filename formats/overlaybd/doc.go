// Package overlaybd makes and reads overlaybd images: every layer is the set of sectors that it changes on one virtual disk with an
// ext4 file system.
//
// A layer's blob is a tar with one file, a ZFile (compressed blocks with checksums), in it an LSMT layer: sectors, and an index that
// says where on the disk they lie. The sub-packages have one of these each: layerfile, zfile and lsmt. Package disk/ext4 knows what
// a layer of files changes on the disk.
//
// [Writer] stores a layer's content while it is inflated, in the order of the tar; nothing of that depends on the layers below. Only
// when these are finished, the file system decides where on the disk the content lies, and the blocks of metadata that
// this changes follow the content. [Open] reads images with layers of this kind and of turboOCI, which may be mixed; the
// reference is containerd's overlaybd with accelerated-container-image 1.4.3. The byte layout is in docs/formats/overlaybd.md.
package overlaybd

package tarfs

import "github.com/lazuli-project/lazuli/tree"

// Entry is one entry of a layer's tar with all its extension headers applied.
type Entry struct {
	// Name is the cleaned path without slashes at its ends and without "." components; "" is the root.
	Name string
	// Mode has type and permissions as in st_mode. Hard links have the type of a regular file and Hardlink set.
	Mode      uint32
	UID, GID  uint32
	Mtime     int64 // seconds since 1970
	MtimeNsec uint32
	Rdev      tree.Device
	// Size of the content in bytes, holes included; 0 unless the entry is a regular file.
	Size int64
	// Target of a symbolic link, as it stands in the tar.
	Target string
	// Hardlink is the cleaned path of the target, in the manner of Name; "" for other entries.
	Hardlink string
	Xattrs   []tree.Xattr // sorted by name

	Index  int   // number of the entry in its layer, from 0
	Offset int64 // of the entry's first header block in the tar
	// Data says where the content lies in the tar, for formats that refer to it: extents of blob 0, in order,
	// holes as tree.Hole. Empty where Size is 0.
	Data []tree.Extent
}

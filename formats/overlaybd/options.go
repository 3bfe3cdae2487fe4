package overlaybd

import (
	"fmt"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// Sizes of disks, in bytes.
const (
	DefaultSize = 64 << 30
	minSize     = 1 << 30
	maxSize     = 16 << 40
)

// writerVersion changes with the stored bytes of the same layer.
const writerVersion = 1

// Options of a [Writer]. The zero value is a good default.
type Options struct {
	// Compression is "lz4" (default) or "zstd".
	Compression string
	// BlockSize is how much is compressed at once, and read at least: a power of two from 4 KiB to 64 KiB (16 KiB). Readers of the
	// reference refuse incompressible blocks of 64 KiB, and so does the writer.
	BlockSize int
	// Size of the virtual disk in bytes, whole GiB (64 GiB).
	Size int64
	// BaseLayer makes the file system in a layer of its own below the image's.
	BaseLayer bool
	// Prefetch are paths that runtimes read in advance: they become a layer on top of the image, which has no files.
	Prefetch []string
	// Trace is what a container read, as overlaybd's daemon records it; it is taken instead of Prefetch. See [CheckTrace].
	Trace []byte
	// MediaTypes of the image.
	MediaTypes MediaTypes
	// CPU bounds the computing goroutines; nil means as many as GOMAXPROCS.
	CPU *formats.CPU
}

// MediaTypes says whose media types an image has.
type MediaTypes string

// The possible media types.
const (
	MediaTypesOfSource MediaTypes = ""
	MediaTypesDocker   MediaTypes = "docker"
	MediaTypesOCI      MediaTypes = "oci"
)

// docker reports whether an image made of src has Docker's media types.
func (t MediaTypes) docker(src *formats.Manifest) bool {
	return t == MediaTypesDocker || t == MediaTypesOfSource && src.IsDocker()
}

// defaultBlockSize is four times the reference's: a seventh smaller, and still less than what one request fetches.
const defaultBlockSize = 16 << 10

// CheckSize returns the size of a disk, which is the default if it is 0, or what is wrong with it.
func CheckSize(size int64) (int64, error) {
	if size == 0 {
		return DefaultSize, nil
	}
	if size < minSize || size > maxSize || size%(1<<30) != 0 {
		return 0, fmt.Errorf("virtual size of %d bytes: whole GiB from 1 to %d are possible", size, maxSize>>30)
	}
	return size, nil
}

func (o *Options) zfile() (zfile.Options, error) {
	z := zfile.Options{Algorithm: zfile.LZ4, BlockSize: o.BlockSize}
	switch o.Compression {
	case "", "lz4":
	case "zstd":
		z.Algorithm = zfile.Zstd
	default:
		return z, fmt.Errorf("overlaybd: compression %q: lz4 and zstd are possible", o.Compression)
	}
	if z.BlockSize == 0 {
		z.BlockSize = defaultBlockSize
	}
	if n := z.BlockSize; n < 4<<10 || n > 64<<10 || n&(n-1) != 0 {
		return z, fmt.Errorf("overlaybd: block size %d: powers of two from 4 KiB to 64 KiB are possible", n)
	}
	return z, nil
}

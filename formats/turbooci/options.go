package turbooci

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
)

// Name of the format as in flags, files and metrics.
const Name = "turbo-oci"

// ArtifactType of a manifest that refers to its source.
const ArtifactType = "application/vnd.containerd.overlaybd.turbo.v1+json"

// writerVersion changes with the stored bytes of the same layer.
const writerVersion = 1

// Options of a [Writer]. The zero value is a good default.
type Options struct {
	// FileSystems are the kinds of metadata that a layer has, EROFS or ext4 or both; runtimes choose. Default is EROFS.
	FileSystems []overlaybd.FS
	// Size of the virtual disk in bytes, whole GiB (64 GiB).
	Size int64
	// Prefetch are paths that runtimes read in advance: they become a layer on top of the image, which has no files.
	Prefetch []string
	// Trace is what a container read, as overlaybd's daemon records it; it is taken instead of Prefetch. See [overlaybd.CheckTrace].
	Trace []byte
	// BaseLayer makes the file system, which must be ext4, in a native layer of its own below the image's.
	BaseLayer bool
	// MediaTypes of the image.
	MediaTypes overlaybd.MediaTypes
	// CPU bounds the computing goroutines; nil means as many as GOMAXPROCS.
	CPU *formats.CPU
}

func (o *Options) setDefaults() error {
	var err error
	if o.Size, err = overlaybd.CheckSize(o.Size); err != nil {
		return fmt.Errorf("turbo-oci: %w", err)
	}
	if len(o.FileSystems) == 0 {
		o.FileSystems = []overlaybd.FS{overlaybd.EROFS}
	}
	for _, kind := range o.FileSystems {
		if kind != overlaybd.EROFS && kind != overlaybd.Ext4 {
			return fmt.Errorf("turbo-oci: file system %q: erofs and ext4 are possible", kind)
		}
	}
	if o.BaseLayer && slices.Contains(o.FileSystems, overlaybd.EROFS) {
		return errors.New("turbo-oci: a base layer has ext4, and so have the layers above")
	}
	o.FileSystems = slices.Compact(slices.Sorted(slices.Values(o.FileSystems)))
	if o.CPU == nil {
		o.CPU = formats.NewCPU(0)
	}
	return nil
}

func (o *Options) version() string {
	kinds := make([]string, len(o.FileSystems))
	for i, k := range o.FileSystems {
		kinds[i] = string(k)
	}
	return fmt.Sprintf("turbooci-%d-%s-%d-base=%t", writerVersion, strings.Join(kinds, "+"), o.Size>>30, o.BaseLayer)
}

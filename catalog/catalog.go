package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
)

// Errors of choices that are impossible. They are wrapped with what is possible.
var (
	// ErrOption is every one of them.
	ErrOption = errors.New("impossible option")
	// ErrUnknownKey is that of [Options.Set] for a key that no format has. It is an ErrOption, too.
	ErrUnknownKey = fmt.Errorf("%w: unknown key", ErrOption)
)

// format is what the catalog knows of one.
type format struct {
	name   string
	keys   []string // of options
	writer func(o *Options) (formats.Writer, error)
}

func table() []format {
	return []format{
		{nydus.Name, []string{
			KeyCompression, KeyLevel, KeyChunkSize, KeyBatchSize, KeyDigest, KeyFSVersion, KeyPrefetch, KeyEncrypt, keyDictionary, keyDetached,
		}, newNydus},
		{nydus.NameRef, []string{KeyChunkSize, KeyPrefetch, KeySpacing}, newNydusRef},
		{overlaybd.Name, []string{
			KeyCompression, KeyPrefetch, KeyFS, KeyVSize, KeyBlockSize, KeyBaseLayer, KeyMediaTypes, keyTrace,
		}, newOverlaybd},
		{turbooci.Name, []string{KeyPrefetch, KeyFS, KeyVSize, KeyBaseLayer, KeyMediaTypes, keyTrace}, newTurboOCI},
	}
}

// Formats returns the names of the formats that can be written.
func Formats() []string {
	all := table()
	names := make([]string, 0, len(all))
	for _, f := range all {
		names = append(names, f.name)
	}
	return names
}

// Readers returns the readers of all formats, the preferred ones first and plain images last.
func Readers() []formats.Reader { return append(LazyReaders(), oci.Reader{}) }

// LazyReaders returns the readers of images that were converted.
func LazyReaders() []formats.Reader {
	return []formats.Reader{nydus.Reader{}, overlaybd.Reader{}, turbooci.Reader{}}
}

// NewWriter makes the writer of a format. An option that the format does not have, and one that it has not in this way, is an
// ErrOption.
func NewWriter(name string, o Options) (formats.Writer, error) {
	w, err := NewWriters([]string{name}, o)
	if err != nil {
		return nil, err
	}
	return w[0], nil
}

// NewWriters makes the writers of several formats that share options: each option must be one that one of them has at least.
func NewWriters(names []string, o Options) ([]formats.Writer, error) {
	all := table()
	var wanted []format
	var keys []string
	for i, name := range names {
		k := slices.IndexFunc(all, func(f format) bool { return f.name == name })
		if k < 0 || slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%w: format %s: %s, each once, are possible", ErrOption, strings.Join(names, ","), strings.Join(Formats(), ", "))
		}
		wanted = append(wanted, all[k])
		keys = append(keys, all[k].keys...)
	}
	for _, key := range o.given() {
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("%w: %s is not for %s", ErrOption, key, strings.Join(names, ", "))
		}
	}
	if o.CPU == nil {
		o.CPU = formats.NewCPU(0)
	}
	writers := make([]formats.Writer, len(wanted))
	for i, f := range wanted {
		w, err := f.writer(&o)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOption, err)
		}
		writers[i] = w
	}
	return writers, nil
}

func newNydus(o *Options) (formats.Writer, error) {
	return nydus.NewWriter(nydus.Options{
		FSVersion: o.FSVersion, Compression: o.Compression, Level: o.Level, ChunkSize: o.ChunkSize, BatchSize: o.BatchSize, Digest: o.Digest,
		PrefetchPaths: o.Prefetch, Encrypt: o.Encrypt, Seal: o.Seal, Dictionary: o.Dictionary, Detached: o.Detached, CPU: o.CPU,
	})
}

func newNydusRef(o *Options) (formats.Writer, error) {
	return nydus.NewRefWriter(nydus.RefOptions{ChunkSize: o.ChunkSize, Spacing: o.Spacing, PrefetchPaths: o.Prefetch, CPU: o.CPU})
}

func newOverlaybd(o *Options) (formats.Writer, error) {
	// One choice of file systems is for all formats of disks; of several, the others are turbo-oci's.
	if len(o.FileSystems) > 0 && !slices.Contains(o.FileSystems, string(overlaybd.Ext4)) {
		return nil, fmt.Errorf("overlaybd: file system %s: ext4 is possible", strings.Join(o.FileSystems, ","))
	}
	types, err := o.mediaTypes()
	if err != nil {
		return nil, err
	}
	return overlaybd.NewWriter(overlaybd.Options{
		Compression: o.Compression, BlockSize: o.BlockSize, Size: o.DiskSize, BaseLayer: o.BaseLayer, Prefetch: o.Prefetch, Trace: o.Trace,
		MediaTypes: types, CPU: o.CPU,
	})
}

func newTurboOCI(o *Options) (formats.Writer, error) {
	types, err := o.mediaTypes()
	if err != nil {
		return nil, err
	}
	t := turbooci.Options{Size: o.DiskSize, Prefetch: o.Prefetch, Trace: o.Trace, BaseLayer: o.BaseLayer, MediaTypes: types, CPU: o.CPU}
	for _, fs := range o.FileSystems {
		t.FileSystems = append(t.FileSystems, overlaybd.FS(fs))
	}
	return turbooci.NewWriter(t)
}

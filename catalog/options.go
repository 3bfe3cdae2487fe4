package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
)

// Options are the choices that formats have. The zero value takes the defaults of each.
type Options struct {
	Compression string   // "none", "lz4", "zstd"
	Level       int      // of the compression
	ChunkSize   int      // bytes
	BatchSize   int      // bytes; small chunks are compressed together
	Digest      string   // of chunks: "blake3", "sha256"
	FSVersion   int      // of RAFS: 6, 5
	Prefetch    []string // paths that runtimes read in advance
	Encrypt     bool     // chunks with keys made by chance
	Spacing     int      // bytes of a layer that are inflated at once
	FileSystems []string // of disks: "ext4", "erofs"
	DiskSize    int64    // bytes, whole GiB
	BlockSize   int      // bytes that are compressed at once
	BaseLayer   bool     // the file system of a disk in a layer of its own
	MediaTypes  string   // "docker", "oci"; "" as the source

	// What has no textual key.

	// Dictionary has chunks of another image, which are referred to instead of being stored again.
	Dictionary *nydus.Dictionary
	// Detached says that data blobs are kept outside of the image's place.
	Detached bool
	// Seal encrypts metadata for those who may read the image; see [nydus.Options].
	Seal func(desc ocispec.Descriptor, layer []byte) (ocispec.Descriptor, []byte, error)
	// Trace is what a container read, in overlaybd's form, instead of Prefetch.
	Trace []byte
	// CPU bounds the cores that are used; nil means GOMAXPROCS.
	CPU *formats.CPU
}

// Keys of [Options.Set].
const (
	KeyCompression = "compression"
	KeyLevel       = "level"
	KeyChunkSize   = "chunk-size"
	KeyBatchSize   = "batch-size"
	KeyDigest      = "digest"
	KeyFSVersion   = "fs-version"
	KeyPrefetch    = "prefetch"
	KeyEncrypt     = "encrypt"
	KeySpacing     = "spacing"
	KeyFS          = "fs"
	KeyVSize       = "vsize"
	KeyBlockSize   = "block-size"
	KeyBaseLayer   = "base-layer"
	KeyMediaTypes  = "media-types"
)

// What has no textual key, as errors call it.
const (
	keyDictionary = "chunk-dict"
	keyDetached   = "detached data"
	keyTrace      = "trace"
)

// setters parse the value of each textual key.
func (o *Options) setters() map[string]func(value string) error {
	return map[string]func(string) error{
		KeyCompression: text(&o.Compression),
		KeyLevel:       number(&o.Level),
		KeyChunkSize:   size(&o.ChunkSize),
		KeyBatchSize:   size(&o.BatchSize),
		KeyDigest:      text(&o.Digest),
		KeyFSVersion:   number(&o.FSVersion),
		KeyPrefetch:    list(&o.Prefetch, "\n"),
		KeyEncrypt:     boolean(&o.Encrypt),
		KeySpacing:     size(&o.Spacing),
		KeyFS:          list(&o.FileSystems, ","),
		KeyVSize:       o.setVSize,
		KeyBlockSize:   size(&o.BlockSize),
		KeyBaseLayer:   boolean(&o.BaseLayer),
		KeyMediaTypes:  text(&o.MediaTypes),
	}
}

// Keys returns the textual keys in alphabetical order.
func Keys() []string { return slices.Sorted(maps.Keys((&Options{}).setters())) }

// KeysOf returns those of a format, in alphabetical order; nil for a format that is not known.
func KeysOf(name string) []string {
	all := Keys()
	for _, f := range table() {
		if f.name == name {
			return slices.DeleteFunc(all, func(key string) bool { return !slices.Contains(f.keys, key) })
		}
	}
	return nil
}

// Set sets an option as users write it: sizes as [ParseSize] reads them, paths to prefetch one a line, vsize in GiB. The empty text
// stands for the default; for what is true or false it stands for true.
func (o *Options) Set(key, value string) error {
	set, ok := o.setters()[key]
	if !ok {
		return fmt.Errorf("%w %q: %s are possible", ErrUnknownKey, key, strings.Join(Keys(), ", "))
	}
	if err := set(value); err != nil {
		return fmt.Errorf("%w: %s=%s: %w", ErrOption, key, value, err)
	}
	return nil
}

// given returns the keys of what is not left to the formats.
func (o *Options) given() []string {
	var keys []string
	for _, g := range []struct {
		key   string
		given bool
	}{
		{KeyCompression, o.Compression != ""}, {KeyLevel, o.Level != 0}, {KeyChunkSize, o.ChunkSize != 0}, {KeyBatchSize, o.BatchSize != 0},
		{KeyDigest, o.Digest != ""}, {KeyFSVersion, o.FSVersion != 0}, {KeyPrefetch, len(o.Prefetch) > 0}, {KeyEncrypt, o.Encrypt || o.Seal != nil},
		{KeySpacing, o.Spacing != 0}, {KeyFS, len(o.FileSystems) > 0}, {KeyVSize, o.DiskSize != 0}, {KeyBlockSize, o.BlockSize != 0},
		{KeyBaseLayer, o.BaseLayer}, {KeyMediaTypes, o.MediaTypes != ""}, {keyDictionary, o.Dictionary != nil}, {keyDetached, o.Detached},
		{keyTrace, len(o.Trace) > 0},
	} {
		if g.given {
			keys = append(keys, g.key)
		}
	}
	return keys
}

func (o *Options) mediaTypes() (overlaybd.MediaTypes, error) {
	switch t := overlaybd.MediaTypes(o.MediaTypes); t {
	case overlaybd.MediaTypesOfSource, overlaybd.MediaTypesDocker, overlaybd.MediaTypesOCI:
		return t, nil
	default:
		return "", fmt.Errorf("%s %q: docker and oci are possible", KeyMediaTypes, t)
	}
}

// setVSize sets the size of disks, in GiB.
func (o *Options) setVSize(value string) error {
	var n int
	if err := number(&n)(value); err != nil {
		return err
	}
	if n > 1<<20 {
		return fmt.Errorf("more than %d GiB", 1<<20)
	}
	o.DiskSize = int64(n) << 30
	return nil
}

func text(p *string) func(string) error {
	return func(v string) error { *p = v; return nil }
}

func number(p *int) func(string) error {
	return func(v string) (err error) {
		*p = 0
		if v != "" {
			if *p, err = strconv.Atoi(v); err != nil || *p < 0 {
				return fmt.Errorf("a number is needed")
			}
		}
		return nil
	}
}

func size(p *int) func(string) error {
	return func(v string) error {
		*p = 0
		if v == "" {
			return nil
		}
		n, err := ParseSize(v)
		if err != nil {
			return err
		}
		if n > 1<<30 {
			return fmt.Errorf("more than 1GiB")
		}
		*p = int(n)
		return nil
	}
}

func list(p *[]string, separator string) func(string) error {
	return func(v string) error {
		*p = nil
		for part := range strings.SplitSeq(v, separator) {
			if part = strings.TrimSpace(part); part != "" {
				*p = append(*p, part)
			}
		}
		return nil
	}
}

func boolean(p *bool) func(string) error {
	return func(v string) (err error) {
		if *p = true; v != "" {
			if *p, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("true and false are possible")
			}
		}
		return nil
	}
}

// ParseSize reads a number of bytes: 1048576, 0x100000 and 1MiB are the same.
func ParseSize(v string) (int64, error) {
	number, factor := v, int64(1)
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(v, unit); ok {
			number, factor = n, int64(1)<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 0, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return 0, fmt.Errorf("size %q: a number of bytes, or one with KiB, MiB or GiB behind it", v)
	}
	return n * factor, nil
}

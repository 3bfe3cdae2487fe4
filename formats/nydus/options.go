package nydus

import (
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// Options of a [Writer]. The zero value is what is recommended.
type Options struct {
	// FSVersion is the version of RAFS: 6 (default) or 5, which only runtimes without EROFS need.
	FSVersion int
	// Compression of chunks: "zstd" (default), "lz4" or "none".
	Compression string
	// Level of zstd, 1 to 19 as in the zstd tool; it is rounded to one of four. Default 3 for layers that are not gzip, and for
	// those that are the matches that gzip found: any level makes them be searched for again.
	Level int
	// Search looks for matches in layers that are gzip, too. That takes several times as long, and saves about 2 % of size with
	// zstd.
	Search bool
	// ChunkSize in bytes, a power of two from 4 KiB to 16 MiB. Default 1 MiB.
	ChunkSize int
	// Digest of chunks: "blake3" (default) or "sha256".
	Digest string
	// PrefetchPaths are what runtimes read in advance: files, and directories with all that is below them. Default "/".
	PrefetchPaths []string
	// SourceReference names the source image in an annotation of the manifest; "" leaves it out.
	SourceReference string
	// Detached says that the layers' blobs are kept outside of the image's place: the manifest has the bootstrap layer alone.
	Detached bool
	// BatchSize packs chunks that are all of their file, and smaller than half of it, into common compressed batches of less than
	// BatchSize bytes. A power of two from 4 KiB to the chunk size; 0, the default, is off.
	BatchSize int
	// Encrypt encrypts the chunks of each layer with a key of its own, made by chance, so that the same input does not give the same
	// bytes. The keys are in the bootstraps in clear.
	Encrypt bool
	// EncryptionKey encrypts all layers with one key, for tests.
	EncryptionKey *nydusblob.Key
	// Seal encrypts the bootstrap layer for those who may read the image, and returns its new descriptor and content; nil leaves it
	// as it is. The layers then have no bootstraps inside, which would tell everybody names and keys; so they cannot be taken up again.
	Seal func(desc ocispec.Descriptor, layer []byte) (ocispec.Descriptor, []byte, error)
	// Dictionary has chunks of other blobs, which layers refer to instead of storing them again.
	Dictionary *Dictionary
	// Builder makes layers as nydus-image does it; nil makes those of images.
	Builder *BuilderOptions
	// CPU bounds the cores that are used, together with other users of it. Default GOMAXPROCS of its own. The caller
	// of a LayerWriter must not hold one of its slots.
	CPU *formats.CPU
}

// BuilderOptions are for layers that other tools take up. Their bootstraps have the chunk table that nydus-image writes, with
// the CRC32Cs of the chunks.
type BuilderOptions struct {
	Form Form
	// ID is the blob's name; "" is its digest.
	ID string
	// Features are further bits that say what the blob is for.
	Features nydusblob.Features
	// Prefetch are paths for the prefetch table of the bootstrap in the blob.
	Prefetch []string
	// NoOwners leaves owners and groups out of the bootstrap in the blob.
	NoOwners bool
}

// Form is what a layer's blob holds beside its chunks and their table.
type Form uint8

// The forms. Where the blob does not have the bootstrap, [LayerBlobs] has what it is made of.
const (
	FormLayer   Form = iota // digests, bootstrap, table of contents: self-contained, found from its end
	FormInlined             // the bootstrap, uncompressed: what builders before 2.2 made
	FormTOC                 // digests, table of contents
	FormData                // nothing
)

func (f Form) inlined() bool { return f == FormLayer || f == FormInlined }
func (f Form) toc() bool     { return f == FormLayer || f == FormTOC }

// recompressVersion changes with what is made of the matches of a stream.
const recompressVersion = 1

const (
	defaultChunkSize = 1 << 20
	defaultLevel     = 3
	maxLevel         = 19
)

// settings are Options that have been checked.
type settings struct {
	version5   bool
	compressor nydusblob.Compressor
	digester   nydusblob.Digester
	level      int
	chunkSize  int
	prefetch   []string
	sourceRef  string
	search     bool
	detached   bool
	batchSize  int
	encrypt    encryption
	seal       func(ocispec.Descriptor, []byte) (ocispec.Descriptor, []byte, error)
	dict       *Dictionary
	builder    *BuilderOptions
	form       Form
	cpu        *formats.CPU
}

// validate checks the options and puts in the defaults.
func (o Options) validate() (settings, error) {
	s := settings{level: o.Level, chunkSize: o.ChunkSize, prefetch: o.PrefetchPaths, sourceRef: o.SourceReference, cpu: o.CPU,
		seal: o.Seal, search: o.Search || o.Level != 0, detached: o.Detached, batchSize: o.BatchSize, dict: o.Dictionary, builder: o.Builder}
	if o.Builder != nil {
		s.form = o.Builder.Form
	}
	if s.sealed() {
		s.form = FormTOC
	}
	if err := s.setVersion(&o); err != nil {
		return s, err
	}
	switch o.Compression {
	case "", "zstd":
		s.compressor = nydusblob.CompressorZstd
	case "lz4":
		s.compressor = nydusblob.CompressorLZ4
	case "none":
		s.compressor = nydusblob.CompressorNone
	default:
		return s, fmt.Errorf("nydus: compression %q: zstd, lz4 and none are possible", o.Compression)
	}
	switch o.Digest {
	case "", "blake3":
		s.digester = nydusblob.DigesterBlake3
	case "sha256":
		s.digester = nydusblob.DigesterSHA256
	default:
		return s, fmt.Errorf("nydus: digest %q: blake3 and sha256 are possible", o.Digest)
	}
	if s.level == 0 {
		s.level = defaultLevel
	}
	if s.level < 1 || s.level > maxLevel {
		return s, fmt.Errorf("nydus: level %d: 1 to %d are possible", s.level, maxLevel)
	}
	if s.chunkSize == 0 {
		s.chunkSize = defaultChunkSize
	}
	if n := s.chunkSize; n < nydusblob.MinChunkSize || n > nydusblob.MaxChunkSize || n&(n-1) != 0 {
		return s, fmt.Errorf("nydus: chunk size %d: powers of two from %d to %d are possible", n, nydusblob.MinChunkSize, nydusblob.MaxChunkSize)
	}
	if n := s.batchSize; n != 0 && (n < nydusblob.MinChunkSize || n > s.chunkSize || n&(n-1) != 0) {
		return s, fmt.Errorf("nydus: batch size %d: 0 and powers of two from %d to the chunk size of %d are possible", n, nydusblob.MinChunkSize, s.chunkSize)
	}
	if s.batchSize > 0 && s.chunkSize > nydusblob.MaxStoredV2 {
		return s, fmt.Errorf("nydus: batches with chunks of %d bytes: %w", s.chunkSize, blob.ErrUnsupported)
	}
	var err error
	if s.encrypt, err = newEncryption(&o, &s); err != nil {
		return s, err
	}
	if err := s.dict.fits(&s); err != nil {
		return s, fmt.Errorf("nydus: chunk dictionary: %w", err)
	}
	if s.prefetch == nil {
		s.prefetch = []string{"/"}
	}
	if s.cpu == nil {
		s.cpu = formats.NewCPU(0)
	}
	return s, nil
}

// setVersion takes the version of RAFS and checks that the other options are possible with it.
func (s *settings) setVersion(o *Options) error {
	switch {
	case o.FSVersion == 0 || o.FSVersion == 6:
		return nil
	case o.FSVersion != 5:
		return fmt.Errorf("nydus: RAFS version %d: 5 and 6 are possible", o.FSVersion)
	case o.BatchSize != 0 || o.Dictionary != nil:
		return fmt.Errorf("nydus: batches and chunk dictionaries are not possible with RAFS version 5: %w", blob.ErrUnsupported)
	case o.Builder != nil && s.form.toc():
		return fmt.Errorf("nydus: a table of contents is not possible with RAFS version 5: %w", blob.ErrUnsupported)
	}
	s.version5 = true
	return nil
}

// fsVersion is the version of RAFS as in annotations.
func (s *settings) fsVersion() string {
	if s.version5 {
		return fsVersion5
	}
	return fsVersion
}

// version names everything that the bytes of a layer depend on.
func (s *settings) version() string {
	v := fmt.Sprintf("nydus%s-%d-%s", s.fsVersion(), layerVersion, s.compressor)
	if s.compressor == nydusblob.CompressorZstd {
		v += fmt.Sprintf(".%s", strings.ToLower(s.zstdLevel().String()))
	}
	if !s.search && s.compressor != nydusblob.CompressorNone {
		v += fmt.Sprintf(".matches%d", recompressVersion)
	}
	v = fmt.Sprintf("%s-%s-%d", v, s.digester, s.chunkSize)
	if s.batchSize > 0 {
		v += fmt.Sprintf("-batch%d", s.batchSize)
	}
	if s.dict != nil {
		v += "-dict." + s.dict.id
	}
	if s.encrypt.on {
		v += "-encrypted." + s.encrypt.token
	}
	if s.sealed() {
		v += "-sealed"
	}
	return v
}

// sealed reports whether layers may tell nothing of their files.
func (s *settings) sealed() bool { return s.seal != nil && s.builder == nil }

// version2 reports whether entries of chunk tables have flags.
func (s *settings) version2() bool { return s.batchSize > 0 || s.encrypt.on }

// features are those of a layer's blob.
func (s *settings) features() nydusblob.Features {
	f := nydusblob.FeatureCapTarTOC
	if !s.version5 {
		f |= nydusblob.FeatureAligned
	}
	if s.form.inlined() {
		f |= nydusblob.FeatureInlinedMeta | nydusblob.FeatureTarHeader
	}
	// A table of contents is found without its bit, which is for later versions.
	if s.form.toc() && !s.version5 {
		f |= nydusblob.FeatureInlinedDigest | nydusblob.FeatureTarHeader | nydusblob.FeatureTOC
	}
	if s.batchSize > 0 {
		f |= nydusblob.FeatureChunkInfoV2 | nydusblob.FeatureBatch
	}
	if s.encrypt.on {
		f |= nydusblob.FeatureChunkInfoV2 | nydusblob.FeatureEncrypted
	}
	if s.builder != nil {
		f |= s.builder.Features
	}
	return f
}

func (s *settings) zstdLevel() zstd.EncoderLevel { return zstd.EncoderLevelFromZstd(s.level) }

package nydusblob

import (
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

// Limits of the format.
const (
	// Align is the unit of plain addresses: each chunk begins at a multiple of it.
	Align = 4096
	// TarBlock is the unit of plain addresses in blobs with FeatureTarfs.
	TarBlock     = 512
	MinChunkSize = 4 << 10
	MaxChunkSize = 16 << 20
	// MaxChunks is the largest number of chunks of a blob; an index has 24 bits.
	MaxChunks     = 1<<24 - 1
	MaxStoredSize = 1 << 40
	MaxPlainSize  = 1 << 44
	// DigestSize is the length of both kinds of digests.
	DigestSize = 32
)

// InlinedID is the blob's name in a bootstrap that lies inside that blob: its digest is not known yet.
const InlinedID = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

// Compressor is a codec of chunks.
type Compressor uint32

// The codecs, numbered as in the blob table.
const (
	CompressorNone Compressor = iota
	CompressorLZ4             // one LZ4 block
	CompressorGzip
	CompressorZstd
)

// String returns the codec's name.
func (c Compressor) String() string {
	switch c {
	case CompressorNone:
		return "none"
	case CompressorLZ4:
		return "lz4"
	case CompressorGzip:
		return "gzip"
	case CompressorZstd:
		return "zstd"
	}
	return fmt.Sprintf("compressor %d", uint32(c))
}

// Digester is a hash function of chunks.
type Digester uint32

// The hash functions, numbered as in the blob table.
const (
	DigesterBlake3 Digester = iota
	DigesterSHA256
)

// String returns the hash function's name.
func (d Digester) String() string {
	switch d {
	case DigesterBlake3:
		return "blake3"
	case DigesterSHA256:
		return "sha256"
	}
	return fmt.Sprintf("digester %d", uint32(d))
}

// Features are the bits that say how a blob is made.
type Features uint32

// Feature bits. Bits 16 to 27 have no meaning and are ignored.
const (
	FeatureAligned       Features = 1 << iota // chunks begin at multiples of Align in the plain space
	FeatureInlinedMeta                        // the blob holds its bootstrap
	FeatureChunkInfoV2                        // entries of 24 bytes
	FeatureZran                               // chunks lie in an OCI layer's gzip stream
	FeatureSeparate                           // data and chunk table are different objects
	FeatureInlinedDigest                      // the blob has a blob.digest section
	FeatureTarfs                              // the blob is a tar
	FeatureBatch                              // small chunks share a compressed batch
	FeatureEncrypted
	FeatureChunkDict // made by "chunkdict generate", without data
	FeaturePrefetch  // made by "optimize"
	FeatureExternal  // the data are not in a blob

	FeatureTarHeader Features = 1 << 28 // sections are followed by tar headers
	FeatureTOC       Features = 1 << 29
	FeatureCapTarTOC Features = 1 << 30 // the builder knows of the two above

	featuresKnown    Features = 0x0fff
	featuresLow      Features = 0xffff
	featuresInMemory Features = 1 << 31 // never stored
)

var featureNames = []struct {
	bit  Features
	name string
}{
	{FeatureAligned, "aligned"}, {FeatureInlinedMeta, "inlined-meta"}, {FeatureChunkInfoV2, "chunk-info-v2"},
	{FeatureZran, "zran"}, {FeatureSeparate, "separate"}, {FeatureInlinedDigest, "inlined-digest"},
	{FeatureTarfs, "tarfs"}, {FeatureBatch, "batch"}, {FeatureEncrypted, "encrypted"},
	{FeatureChunkDict, "chunk-dict"}, {FeaturePrefetch, "prefetch"}, {FeatureExternal, "external"},
	{FeatureTarHeader, "tar-header"}, {FeatureTOC, "toc"}, {FeatureCapTarTOC, "cap-tar-toc"},
}

// Names lists the features that are set.
func (f Features) Names() []string {
	var names []string
	for _, n := range featureNames {
		if f&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// Info is what a bootstrap's blob table says about a blob. Sizes and offsets are in bytes.
type Info struct {
	ID         string // 1 to 64 bytes, normally the blob's SHA-256 in hex
	ChunkSize  uint32
	ChunkCount uint32
	Compressor Compressor
	Digester   Digester
	Features   Features
	StoredSize uint64 // of the blob; of what lies before the bootstrap if that is inlined
	PlainSize  uint64

	TOCSize   uint32 // with its tar header; 0 if unknown
	TOCDigest [DigestSize]byte

	CICompressor Compressor
	CIOffset     uint64
	CIStoredSize uint64
	CISize       uint64

	// MetaDigest and MetaSize name the object that has the chunk table where FeatureSeparate is set; zeros where the bootstrap
	// lies in that object itself.
	MetaDigest [DigestSize]byte
	MetaSize   uint64

	// Key is that of a blob with FeatureEncrypted.
	Key Key
}

// Validate checks the rules of the format. What is valid but not readable here gives [blob.ErrUnsupported].
func (b *Info) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("blob %.64q: %s: %w", b.ID, fmt.Sprintf(format, args...), blob.ErrCorrupt)
	}
	if b.Features&featuresInMemory != 0 || b.Features&featuresLow&^featuresKnown != 0 {
		return bad("features %#x", uint32(b.Features))
	}
	for _, f := range []struct {
		bit  Features
		name string
	}{
		{FeatureChunkDict, "generated chunk dictionaries"},
		{FeatureExternal, "external data"},
	} {
		if b.Features&f.bit != 0 {
			return fmt.Errorf("blob %.64q: %s: %w", b.ID, f.name, blob.ErrUnsupported)
		}
	}
	switch {
	case b.Features&FeatureTarfs != 0:
		return b.validateTar(bad)
	case b.Features&FeatureAligned == 0:
		return bad("chunks are not aligned")
	case b.ChunkSize < MinChunkSize || b.ChunkSize > MaxChunkSize || b.ChunkSize&(b.ChunkSize-1) != 0:
		return bad("chunk size %d", b.ChunkSize)
	case b.ChunkCount == 0 || b.ChunkCount > MaxChunks:
		return bad("%d chunks", b.ChunkCount)
	case b.Compressor > CompressorZstd || b.CICompressor > CompressorZstd:
		return bad("compressors %d, %d", b.Compressor, b.CICompressor)
	case b.Digester > DigesterSHA256:
		return bad("digester %d", b.Digester)
	case b.StoredSize > MaxStoredSize || b.PlainSize > MaxPlainSize || b.PlainSize < Align:
		return bad("stored size %d, plain size %d", b.StoredSize, b.PlainSize)
	case b.Features&FeatureEncrypted != 0 && (b.Features&FeatureChunkInfoV2 == 0 || b.Features&(FeatureSeparate|FeatureZran) != 0):
		return bad("features %v cannot be together", b.Features.Names())
	case b.CIOffset > MaxStoredSize || b.CIStoredSize > b.CISize:
		return bad("chunk table of %d bytes, stored as %d at %d", b.CISize, b.CIStoredSize, b.CIOffset)
	}
	n := uint64(b.ChunkCount)
	v2 := b.Features&FeatureChunkInfoV2 != 0
	batch, zran := b.Features&FeatureBatch != 0, b.Features&FeatureZran != 0
	switch {
	case v2 && (batch || zran):
		// At most one group a chunk follows the entries.
		most := n * (entrySizeV2 + groupSize)
		if zran {
			most += n * windowSize
		}
		if b.CISize < n*entrySizeV2 || b.CISize > most || batch && zran {
			return bad("chunk table of %d bytes for %d chunks in groups", b.CISize, n)
		}
	case batch || zran:
		return bad("groups without chunk info v2")
	case v2 && b.CISize != n*entrySizeV2, !v2 && b.CISize != n*entrySizeV1:
		return bad("chunk table of %d bytes for %d chunks", b.CISize, n)
	}
	if b.CICompressor == CompressorNone && b.CIStoredSize != b.CISize {
		return bad("raw chunk table of %d bytes, stored as %d", b.CISize, b.CIStoredSize)
	}
	if _, err := b.cipher(); err != nil {
		return fmt.Errorf("blob %.64q: %w", b.ID, err)
	}
	return nil
}

// validateTar checks a blob that is a tar, which has neither chunk table nor compression.
func (b *Info) validateTar(bad func(string, ...any) error) error {
	const other = FeatureAligned | FeatureInlinedMeta | FeatureChunkInfoV2 | FeatureZran | FeatureSeparate | FeatureInlinedDigest | FeatureBatch | FeatureEncrypted
	switch {
	case b.Features&other != 0:
		return bad("features %v cannot be together", b.Features.Names())
	case b.ChunkSize < MinChunkSize || b.ChunkSize > MaxChunkSize || b.ChunkSize&(b.ChunkSize-1) != 0 || b.ChunkCount == 0 || b.ChunkCount > MaxChunks:
		return bad("%d chunks of %d bytes", b.ChunkCount, b.ChunkSize)
	case b.Compressor != CompressorNone || b.PlainSize < TarBlock || b.PlainSize > MaxStoredSize || b.StoredSize != b.PlainSize:
		return bad("tar of %d bytes in %d, compressor %d", b.PlainSize, b.StoredSize, b.Compressor)
	}
	return nil
}

// cipher returns what decrypts the blob, or nil where it is not encrypted.
func (b *Info) cipher() (*Cipher, error) {
	if b.Features&FeatureEncrypted == 0 {
		return nil, nil
	}
	return NewCipher(&b.Key)
}

// DataSize returns where the chunks end.
func (b *Info) DataSize() uint64 {
	switch {
	case b.Features&FeatureCapTarTOC == 0, b.Features&FeatureSeparate != 0:
		return b.StoredSize
	case b.Features&FeatureTarHeader != 0:
		return max(b.CIOffset, TarHeaderSize) - TarHeaderSize
	}
	return b.CIOffset
}

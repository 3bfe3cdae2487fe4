package nydusimage

import (
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// featureFlags are the features as inspect prints them, by their bits.
var featureFlags = []struct {
	bit  nydusblob.Features
	name string
}{
	{nydusblob.FeatureAligned, "ALIGNED"}, {nydusblob.FeatureInlinedMeta, "INLINED_FS_META"}, {nydusblob.FeatureChunkInfoV2, "CHUNK_INFO_V2"},
	{nydusblob.FeatureZran, "ZRAN"}, {nydusblob.FeatureSeparate, "SEPARATE"}, {nydusblob.FeatureInlinedDigest, "INLINED_CHUNK_DIGEST"},
	{nydusblob.FeatureTarfs, "TARFS"}, {nydusblob.FeatureBatch, "BATCH"}, {nydusblob.FeatureEncrypted, "ENCRYPTED"},
	{nydusblob.FeatureChunkDict, "IS_CHUNKDICT_GENERATED"}, {nydusblob.FeaturePrefetch, "IS_SEPARATED_WITH_PREFETCH_FILES"},
	{nydusblob.FeatureExternal, "EXTERNAL"}, {nydusblob.FeatureTarHeader, "HAS_TAR_HEADER"}, {nydusblob.FeatureTOC, "HAS_TOC"},
	{nydusblob.FeatureCapTarTOC, "CAP_TAR_TOC"},
}

func (i *inspector) listBlobs() error {
	type entry struct {
		ID              string `json:"blob_id"`
		Stored          uint64 `json:"compressed_size"`
		Plain           uint64 `json:"decompressed_size"`
		ReadaheadOffset uint64 `json:"readahead_offset"` // of v5; 0 here
		ReadaheadSize   uint64 `json:"readahead_size"`
	}
	list := []entry{}
	for k := range i.blobs {
		info := &i.blobs[k].Info
		list = append(list, entry{ID: info.ID, Stored: info.StoredSize, Plain: info.PlainSize})
		if i.request {
			continue
		}
		var flags []string
		for _, f := range featureFlags {
			if info.Features&f.bit != 0 {
				flags = append(flags, f.name)
			}
		}
		digester := "Blake3"
		if info.Digester == nydusblob.DigesterSHA256 {
			digester = "Sha256"
		}
		i.printf(`
Blob Index:             %d
Blob ID:                %s
Raw Blob ID:            %s
Blob Size:              %d
Compressed Data Size:   %d
Uncompressed Data Size: %d
Mapped Block Address:   %d
Features:               %s
Compressor:             %s
Digester:               %s
Cipher:                 None
Chunk Size:             %#x
Chunk Count:            %d
Prefetch Table Offset:  0
Prefetch Table Size:    0
Meta Compressor:        %s
Meta Offset:            %d
Meta Compressed Size:   %d
Meta Uncompressed Size: %d
ToC Digest:             %x
ToC Size:               %d
RAFS Blob Digest:       %x
RAFS Blob Size:         %d
`, k, info.ID, i.Blobs[k].ID, info.StoredSize, info.DataSize(), info.PlainSize, i.Mapped[k], strings.Join(flags, " | "),
			compressorName(info.Compressor), digester, info.ChunkSize, info.ChunkCount, compressorName(info.CICompressor),
			info.CIOffset, info.CIStoredSize, info.CISize, info.TOCDigest, info.TOCSize, info.MetaDigest, info.MetaSize)
	}
	return i.json(list)
}

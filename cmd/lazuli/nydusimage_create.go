package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/nydusimage"
)

// Values of flags that several sub-commands have.
var (
	nydusPolicies  = []string{nydusimage.PrefetchFS, nydusimage.PrefetchBlob, nydusimage.PrefetchNone}
	nydusDigesters = []string{"blake3", "sha256"}
	nydusTypes     = []string{
		"directory", nydusimage.TypeDir, nydusimage.TypeEStargz, nydusimage.TypeStargzRef, nydusimage.TypeTOCRef,
		nydusimage.TypeTar, nydusimage.TypeTarfs, nydusimage.TypeTargz, nydusimage.TypeTargzRef, "stargz_index",
	}
)

// nydusCommon are flags that are the same in most sub-commands.
type nydusCommon struct{ config, outputJSON string }

func (c *nydusCommon) addConfig(f *pflag.FlagSet) {
	f.StringVarP(&c.config, "config", "C", "", "Configuration file for storage backend, cache and RAFS FUSE filesystem.")
}

func (c *nydusCommon) addJSON(f *pflag.FlagSet) {
	f.StringVarP(&c.outputJSON, "output-json", "J", "", "File path to save operation result in JSON format")
}

func addPolicy(f *pflag.FlagSet, value *string) {
	oneOf(f, value, "prefetch-policy", "", nydusimage.PrefetchNone, "Set data prefetch policy; fs and blob read paths from standard input, one a line", nydusPolicies)
}

// aliases are older names of flags.
func aliases(f *pflag.FlagSet, names map[string]string) {
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if now, ok := names[name]; ok {
			name = now
		}
		return pflag.NormalizedName(name)
	})
}

func (n *nydusApp) createCommand() *cobra.Command {
	var o nydusimage.CreateOptions
	var c nydusCommon
	var chunkSize, batchSize, features, blobDataSize, blobOffset string
	var aligned, disableCheck bool
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] <SOURCE>",
		Short: "Create RAFS filesystems from directories, tar files or OCI images",
		Args:  nydusArgs(1, 1),
	}
	f := cmd.Flags()
	oneOf(f, &o.Type, "type", "t", nydusimage.TypeDir, "Conversion type:", nydusTypes)
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "File path to save the generated RAFS metadata blob")
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Directory path to save generated RAFS metadata and data blobs")
	f.StringVarP(&o.Blob, "blob", "b", "", "File path to save the generated RAFS data blob")
	f.StringVar(&o.ExternalBlob, "external-blob", "", "File path to save the generated RAFS external blob")
	f.BoolVar(&o.InlineMeta, "blob-inline-meta", false, "Inline RAFS metadata and blob metadata into the data blob")
	f.StringVar(&o.BlobID, "blob-id", "", "OSS object id for the generated RAFS data blob")
	f.StringVar(&blobDataSize, "blob-data-size", "", "Set data blob size for 'estargztoc-ref' conversion")
	f.StringVar(&blobOffset, "blob-offset", "0", "File offset to store RAFS data, to support storing data blobs into tar files")
	_ = f.MarkHidden("blob-offset")
	f.StringVar(&chunkSize, "chunk-size", "", "Set the size of data chunks, must be power of two and between 0x1000-0x1000000:")
	f.StringVar(&batchSize, "batch-size", "0", "Set the batch size to merge small chunks, must be power of two, between 0x1000-0x1000000 or be zero:")
	oneOf(f, &o.Compressor, "compressor", "", "zstd", "Algorithm to compress data chunks:", []string{"none", "lz4_block", "zstd"})
	oneOf(f, &o.Digester, "digester", "", "blake3", "Algorithm to digest data chunks:", nydusDigesters)
	c.addConfig(f)
	oneOf(f, &o.FSVersion, "fs-version", "v", "6", "Set RAFS format version number:", []string{"5", "6"})
	oneOf(f, &features, "features", "", "", "Enable/disable features", []string{"blob-toc"})
	f.StringVar(&o.ChunkDict, "chunk-dict", "", "File path of chunk dictionary for data deduplication")
	f.StringVar(&o.Parent, "parent-bootstrap", "", "File path of the parent/referenced RAFS metadata blob (optional)")
	f.BoolVar(&aligned, "aligned-chunk", false, "Align uncompressed data chunks to 4K, only for RAFS V5")
	f.BoolVar(&o.Repeatable, "repeatable", false, "Generate reproducible RAFS metadata")
	f.BoolVar(&disableCheck, "disable-check", false, "Disable validation of metadata after building")
	_ = f.MarkHidden("disable-check")
	oneOf(f, &o.Whiteout, "whiteout-spec", "", nydusimage.WhiteoutOCI, "Set the type of whiteout specification:",
		[]string{nydusimage.WhiteoutOCI, nydusimage.WhiteoutOverlayFS, nydusimage.WhiteoutNone})
	addPolicy(f, &o.PrefetchPolicy)
	c.addJSON(f)
	f.BoolVarP(&o.Encrypt, "encrypt", "E", false, "Encrypt the generated RAFS metadata and data blobs")
	f.StringVar(&o.BlobCacheDir, "blob-cache-dir", "", "Directory path to generate blob cache files ($id.blob.meta and $id.blob.data)")
	f.StringVar(&o.Attributes, "attributes", "", "Nydus attributes file path (usually .nydusattributes file)")
	aliases(f, map[string]string{"source-type": "type", "inline-bootstrap": "blob-inline-meta"})
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		switch {
		case o.InlineMeta && o.Bootstrap != "":
			return usagef("the argument '--bootstrap <bootstrap>' cannot be used with '--blob-inline-meta'")
		case o.BlobCacheDir != "" && (o.InlineMeta || o.Blob != "" || o.BlobDir != "" || f.Changed("compressor")):
			return usagef("the argument '--blob-cache-dir <blob-cache-dir>' cannot be used with '--blob-inline-meta', '--blob', '--blob-dir' or '--compressor'")
		case !o.InlineMeta && o.Bootstrap == "" && o.BlobDir == "":
			return usagef("the following required arguments were not provided: --bootstrap <bootstrap>")
		}
		o.Source, o.Stdin, o.TOC = args[0], n.stdin, features == "blob-toc"
		if chunkSize != "" {
			if o.ChunkSize, err = parseNumber("chunk size", chunkSize); err != nil {
				return err
			}
		}
		if o.BatchSize, err = parseNumber("batch size", batchSize); err != nil {
			return err
		}
		if o.BlobOffset, err = parseNumber("blob offset", blobOffset); err != nil {
			return err
		}
		if o.Prefetch, err = n.prefetchList(o.PrefetchPolicy); err != nil {
			return err
		}
		res, err := nydusimage.Create(cmd.Context(), o)
		if err != nil {
			return err
		}
		return n.finish(res, "successfully built RAFS filesystem", c.outputJSON)
	}
	return cmd
}

func (n *nydusApp) mergeCommand() *cobra.Command {
	var o nydusimage.MergeOptions
	var c nydusCommon
	var digests, ids, sizes, tocDigests, tocSizes string
	cmd := &cobra.Command{
		Use:   "merge [OPTIONS] <SOURCE>...",
		Short: "Merge multiple bootstraps into a overlaid bootstrap",
		Args:  nydusArgs(1, -1),
	}
	f := cmd.Flags()
	f.StringVar(&o.Parent, "parent-bootstrap", "", "File path of the parent/referenced RAFS metadata blob (optional)")
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "Output path of nydus overlaid bootstrap")
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Directory path to save generated RAFS metadata and data blobs")
	f.StringVar(&o.ChunkDict, "chunk-dict", "", "File path of chunk dictionary for data deduplication")
	addPolicy(f, &o.PrefetchPolicy)
	c.addJSON(f)
	f.StringVar(&digests, "blob-digests", "", "RAFS blob digest list separated by comma")
	f.StringVar(&ids, "original-blob-ids", "", "original blob id list separated by comma, it may usually be a sha256 hex string")
	f.StringVar(&sizes, "blob-sizes", "", "RAFS blob size list separated by comma")
	f.StringVar(&tocDigests, "blob-toc-digests", "", "RAFS blob toc digest list separated by comma")
	f.StringVar(&tocSizes, "blob-toc-sizes", "", "RAFS blob toc size list separated by comma")
	c.addConfig(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		o.Sources = args
		o.BlobDigests, o.OriginalBlobIDs, o.TOCDigests = commaList(digests), commaList(ids), commaList(tocDigests)
		if o.BlobSizes, err = commaNumbers("blob-sizes", sizes); err != nil {
			return err
		}
		if o.TOCSizes, err = commaNumbers("blob-toc-sizes", tocSizes); err != nil {
			return err
		}
		if o.Prefetch, err = n.prefetchList(o.PrefetchPolicy); err != nil {
			return err
		}
		res, err := nydusimage.Merge(cmd.Context(), o)
		if err != nil {
			return err
		}
		return n.finish(res, "successfully merged RAFS filesystems", c.outputJSON)
	}
	return cmd
}

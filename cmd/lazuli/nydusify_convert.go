package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/store"
)

// nydusifyConvert are the flags of "nydusify convert".
type nydusifyConvert struct {
	source, sourceArchive, target, targetArchive, suffix string
	sourceInsecure, targetInsecure, plainHTTP            bool
	backend, sourceBackend                               nydusifyBackend
	chunkDict                                            string
	chunkDictInsecure, merge, ref, referrer, reverse     bool
	platforms                                            nydusifyPlatforms
	fsVersion, prefetchDir, compressor                   string
	chunkSize, batchSize, outputJSON                     string
	prefetchPatterns                                     bool
}

func (n *nydusifyApp) convertCommand() *cobra.Command {
	var c nydusifyConvert
	cmd := &cobra.Command{
		Use:   "convert",
		Short: "Generate a Nydus image from an OCI image",
		Example: `  nydusify convert --source host/app:1 --target-suffix -nydus
  nydusify convert --source host/app:1 --target host/app:1 --merge-platform
  nydusify convert --oci-ref --source host/app:1 --target host/app:1-zran
  nydusify convert --reverse --source host/app:1-nydus --target host/app:1-oci`,
		Args: exactArgs(0),
	}
	f := cmd.Flags()
	f.StringVar(&c.source, "source", "", "Source OCI image reference [$SOURCE]")
	f.StringVar(&c.sourceArchive, "source-archive", "", "Path to source OCI image layout tar archive [$SOURCE_ARCHIVE]")
	f.StringVar(&c.target, "target", "", "Target (Nydus) image reference [$TARGET]")
	f.StringVar(&c.targetArchive, "target-archive", "", "Path to target OCI image layout tar archive [$TARGET_ARCHIVE]")
	f.StringVar(&c.suffix, "target-suffix", "", "Generate the target image reference by adding a suffix to the source image reference, conflicts with --target [$TARGET_SUFFIX]")
	f.BoolVar(&c.sourceInsecure, "source-insecure", false, "Skip verifying server certs for HTTPS source registry [$SOURCE_INSECURE]")
	f.BoolVar(&c.targetInsecure, "target-insecure", false, "Skip verifying server certs for HTTPS target registry [$TARGET_INSECURE]")
	f.BoolVar(&c.plainHTTP, "plain-http", false, "Enable plain http for Nydus image push [$PLAIN_HTTP]")
	c.backend.add(f, "")
	c.sourceBackend.add(f, "source-")
	f.StringVar(&c.chunkDict, "chunk-dict", "", "Chunk dictionary: bootstrap:registry:REF or bootstrap:local:PATH [$CHUNK_DICT]")
	f.BoolVar(&c.chunkDictInsecure, "chunk-dict-insecure", false, "Skip verifying server certs for HTTPS dict registry [$CHUNK_DICT_INSECURE]")
	f.BoolVar(&c.merge, "merge-platform", false, "Generate an OCI image index with both OCI and Nydus manifests for the image [$MERGE_PLATFORM]")
	f.BoolVar(&c.merge, "multi-platform", false, "The same as --merge-platform")
	c.platforms.add(f)
	f.BoolVar(&c.ref, "oci-ref", false, "Convert to OCI-referenced nydus zran image [$OCI_REF]")
	f.BoolVar(&c.referrer, "with-referrer", false, "Associate a reference to the source image [$WITH_REFERRER]")
	f.BoolVar(&c.reverse, "reverse", false, "Perform reverse conversion from Nydus format to OCI format [$REVERSE]")
	f.StringVar(&c.fsVersion, "fs-version", "6", "Nydus image format version number, possible values: 5, 6 [$FS_VERSION]")
	f.StringVar(&c.prefetchDir, "prefetch-dir", "", "Specify an absolute path within the image for prefetch [$PREFETCH_DIR]")
	f.BoolVar(&c.prefetchPatterns, "prefetch-patterns", false, "Read prefetch list from STDIN, absolute paths line by line [$PREFETCH_PATTERNS]")
	f.StringVar(&c.compressor, "compressor", "zstd", "Algorithm to compress image data blob, possible values: none, lz4_block, zstd [$COMPRESSOR]")
	f.StringVar(&c.chunkSize, "fs-chunk-size", "0x100000", "Size of chunks, a power of two from 0x1000 to 0x1000000 [$FS_CHUNK_SIZE]")
	f.StringVar(&c.chunkSize, "chunk-size", "0x100000", "The same as --fs-chunk-size")
	f.StringVar(&c.batchSize, "batch-size", "0", "Size of batches, a power of two from 0x1000 to the chunk size, or zero [$BATCH_SIZE]")
	f.StringVar(&c.outputJSON, "output-json", "", "File path to save the metrics of the conversion in JSON format [$OUTPUT_JSON]")
	for _, name := range []string{"fs-align-chunk", "backend-aligned-chunk", "backend-force-push", "build-cache-insecure", "oci", "docker-v2-format"} {
		f.Bool(name, false, "Without effect: "+nydusifyWhy[name]+" [$"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"]")
	}
	warn := n.without(f, nydusifyWhy, flagWorkDir, flagNydusImage,
		[3]string{"push-retry-count", "3", "Number of retries when pushing to registry fails [$PUSH_RETRY_COUNT]"},
		[3]string{"push-retry-delay", "5s", "Delay between push retries [$PUSH_RETRY_DELAY]"},
		[3]string{"build-cache", "", "Specify a cache image [$BUILD_CACHE]"}, [3]string{"build-cache-tag", "", "Use $target:$build-cache-tag as cache image [$BUILD_CACHE_TAG]"},
		[3]string{"build-cache-version", "v1", "Version number to filter cache images [$BUILD_CACHE_VERSION]"},
		[3]string{"build-cache-max-records", "200", "Maximum cache records in a cache image [$BUILD_CACHE_MAX_RECORDS]"})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		warn()
		flags, err := c.flags(n, cmd)
		if err != nil {
			return err
		}
		source, target, err := c.refs()
		if err != nil {
			return err
		}
		return c.run(cmd.Context(), n, flags, source, target)
	}
	return cmd
}

// refs returns source and target in the form of lazuli.
func (c *nydusifyConvert) refs() (source, target string, err error) {
	if c.source == "" && c.sourceArchive == "" {
		return "", "", usagef("required flag \"source\" not set")
	}
	if c.target != "" && c.suffix != "" {
		return "", "", usagef("--target conflicts with --target-suffix")
	}
	source, target = c.source, c.target
	if c.suffix != "" {
		refs, err := parseRefs(c.source)
		if err != nil {
			return "", "", err
		}
		if refs[0].Transport != store.Registry || refs[0].Digest != "" {
			return "", "", usagef("--target-suffix: the source %s has no tag", refs[0])
		}
		target = refs[0].String() + c.suffix
	}
	if c.sourceArchive != "" {
		source = "oci-archive:" + c.sourceArchive
	}
	if c.targetArchive != "" {
		target = "oci-archive:" + c.targetArchive
	}
	if target == "" {
		return "", "", usagef("--target or --target-suffix is required")
	}
	return source, target, nil
}

// flags returns the flags in the form of lazuli.
func (c *nydusifyConvert) flags(n *nydusifyApp, cmd *cobra.Command) (*convertFlags, error) {
	if c.sourceBackend.kind != "" {
		return nil, usagef("--source-backend-type: sources are read from registries and archives")
	}
	out := &convertFlags{formats: []string{nydus.Name}, attach: string(convert.AttachTag), compression: strings.TrimSuffix(c.compressor, "_block"), subject: c.referrer}
	switch {
	case c.reverse:
		out.formats = []string{oci.Name}
	case c.ref:
		out.formats, out.compression = []string{nydus.NameRef}, "" // nothing is compressed
	}
	if c.merge && !c.reverse {
		out.attach = string(convert.AttachIndex)
	}
	switch c.fsVersion {
	case "5", "6":
		out.fsVersion = int(c.fsVersion[0] - '0')
	default:
		return nil, usagef("--fs-version should be one of [5 6]")
	}
	var err error
	if out.platforms, err = c.platforms.platforms(cmd.Flags()); err != nil {
		return nil, err
	}
	size, err := parseNumber("chunk size", c.chunkSize)
	if err != nil {
		return nil, &usageError{err}
	}
	batch, err := parseNumber("batch size", c.batchSize)
	if err != nil {
		return nil, &usageError{err}
	}
	out.chunkSize, out.batchSize = sizeFlag(size), sizeFlag(batch)
	if out.backend, err = c.backend.flags(); err != nil {
		return nil, err
	}
	if out.chunkDict, err = dictionaryRef(c.chunkDict); err != nil {
		return nil, err
	}
	switch {
	case c.prefetchDir != "" && c.prefetchPatterns:
		return nil, usagef("--prefetch-dir conflicts with --prefetch-patterns")
	case c.prefetchDir != "":
		out.prefetch, n.stdin = "-", strings.NewReader(c.prefetchDir)
	case c.prefetchPatterns:
		out.prefetch = "-"
	}
	return out, nil
}

// dictionaryRef returns a reference for a chunk dictionary of nydusify.
func dictionaryRef(arg string) (string, error) {
	if arg == "" {
		return "", nil
	}
	if ref, ok := strings.CutPrefix(arg, "bootstrap:registry:"); ok {
		return ref, nil
	}
	if path, ok := strings.CutPrefix(arg, "bootstrap:local:"); ok {
		return "rafs:" + path, nil
	}
	return "", usagef("invalid chunk dict argument %q: bootstrap:registry:REF and bootstrap:local:PATH are possible", arg)
}

// nydusifyMetrics is what --output-json has. Times are in nanoseconds; those of a stream overlap, so that one has them all.
type nydusifyMetrics struct {
	SourceImageSize   int64
	TargetImageSize   int64
	SourcePullElapsed time.Duration
	ConversionElapsed time.Duration
	TargetPushElapsed time.Duration
}

func (c *nydusifyConvert) run(ctx context.Context, n *nydusifyApp, flags *convertFlags, source, target string) error {
	flags.report = func(res *convert.Result) error {
		m := nydusifyMetrics{ConversionElapsed: res.Wall}
		for _, im := range res.Images {
			m.SourceImageSize += im.SourceSize
			m.TargetImageSize += im.Size
		}
		n.infof("converted image %s, %s instead of %s, elapsed: %s", target, formatSize(m.TargetImageSize), formatSize(m.SourceImageSize), res.Wall)
		if c.outputJSON == "" {
			return nil
		}
		p, err := json.Marshal(m)
		if err == nil {
			err = os.WriteFile(c.outputJSON, append(p, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		return nil
	}
	n.infof("converting %s to %s", source, target)
	src := &storeFlags{insecure: c.sourceInsecure, plainHTTP: c.plainHTTP}
	dest := &storeFlags{insecure: c.targetInsecure, plainHTTP: c.plainHTTP}
	flags.dictStore = &storeFlags{insecure: c.chunkDictInsecure, plainHTTP: c.plainHTTP}
	return n.convert(ctx, flags, source, target, src, dest)
}

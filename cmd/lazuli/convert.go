package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

type convertFlags struct {
	subject            bool                        // of drop-ins
	index              convert.IndexOptions        // of drop-ins
	turboFS            []string                    // of convertor, instead of fileSystems for overlaybd too
	tempDir            string                      // for what cannot be streamed; "" for the system's
	onProgress         func(convert.Progress)      // instead of the usual way
	report             func(*convert.Result) error // prints the result; nil for the usual way
	formats, platforms []string
	outputs            map[string]string // of --output
	attach             string
	compression        string
	level              int
	chunkSize          sizeFlag
	batchSize          sizeFlag
	chunkDict          string
	dictStore          *storeFlags // of the chunk dictionary; nil for those of the source
	dictionary         *nydus.Dictionary
	backend            backendFlags
	digest             string
	prefetch           string
	options            map[string]string
	fsVersion          int
	fileSystems        []string // of disks
	vsize              int      // of disks, in GiB
	encrypt            bool
	encryptKeys        []string
	keys               keyFlags
	record             string
	dryRun, check      bool
}

func (a *app) convertCommand() *cobra.Command {
	var c convertFlags
	cmd := &cobra.Command{
		Use:   "convert [flags] SOURCE TARGET",
		Short: "Convert an image into a lazy-loading format",
		Long: `Convert an image into a lazy-loading format: one download and one inflation of each layer,
nothing unpacked to a disk, and the result streamed to its target while it is made.
Layers that the target has already are neither downloaded nor pushed again.`,
		Example: `  # from a registry to a registry, and prove the result before the tag appears
  lazuli convert --check node:19 localhost:5000/node:19-nydus
  # in one step out of docker, into a directory
  docker save app | lazuli convert docker-archive:- oci:/tmp/app
  # beside the original, under one tag
  lazuli convert --attach index host/app:1 host/app:1
  # two formats from one download, as host/app:1-overlaybd and host/app:1-turbo-oci
  lazuli convert -f overlaybd,turbo-oci host/app:1 host/app:1
  # in containerd, where images of Kubernetes are in the namespace k8s.io
  lazuli convert containerd:k8s.io/host/app:1 containerd:k8s.io/host/app:1-nydus
  # back: a plain image of a lazy one
  lazuli convert -f oci host/app:1-nydus host/app:1-plain
  # what would happen, and may I push?
  lazuli convert --dry-run node:19 host/node:19`,
		Args: exactArgs(2),
	}
	f := cmd.Flags()
	f.StringSliceVarP(&c.formats, "format", "f", []string{nydus.Name}, "`FORMAT`,... of the result: nydus; nydus-ref, an index beside the layers as they are; overlaybd; turbo-oci, its index beside the layers; or oci alone, to make a plain image of a lazy one")
	f.StringToStringVar(&c.outputs, "output", nil, "`FORMAT=TARGET` for one of several formats (TARGET with -FORMAT behind its tag)")
	f.StringVar(&c.attach, "attach", "tag", "tag: an image of its own; index: the source's manifests first, ours last; referrer: a manifest whose subject is the source")
	f.StringSliceVar(&c.platforms, "platform", nil, "`OS/ARCH[/VARIANT]`,... to convert (all)")
	f.StringVar(&c.compression, "compression", "", "none, lz4 or zstd (zstd for nydus, lz4 for overlaybd)")
	f.IntVar(&c.level, "level", 0, "compression level, 1 to 19; without, what gzip found in the layers is used instead of a search")
	c.chunkSize = defaultChunkSize
	f.Var(&c.chunkSize, "chunk-size", "`SIZE` of chunks, a power of two from 4KiB to 16MiB")
	f.Var(&c.batchSize, "batch-size", "`SIZE` of batches, in which small files are compressed together; a power of two up to the chunk size (off)")
	f.StringVar(&c.chunkDict, "chunk-dict", "", "an `IMAGE` whose chunks are referred to instead of being stored again")
	f.StringVar(&c.digest, "digest", defaultDigest, "digest of chunks: blake3 or sha256")
	f.StringVar(&c.prefetch, "prefetch", "", "`FILE` with one path a line that runtimes read in advance; - is standard input")
	f.StringToStringVar(&c.options, "option", nil, "`KEY=VALUE` of what is rarer:\n"+optionsHelp())
	f.IntVar(&c.fsVersion, "fs-version", defaultFSVersion, "version of Nydus' RAFS: 6; or 5, for runtimes that know no other")
	f.StringSliceVar(&c.fileSystems, "fs", nil, "file system of disks: ext4 for overlaybd; erofs or ext4 or both for turbo-oci (erofs)")
	f.IntVar(&c.vsize, "vsize", overlaybd.DefaultSize>>30, "size of disks in `GIB`, for overlaybd and turbo-oci")
	f.BoolVar(&c.encrypt, "encrypt", false, "encrypt the data with keys made by chance, which stand in the bootstrap: each conversion gives other bytes, and none is recorded")
	f.StringArrayVar(&c.encryptKeys, "encrypt-key", nil, "`RECIPIENT` who may read what --encrypt makes: jwe:FILE with a public key, pkcs7:FILE with a certificate, pgp:NAME=FILE with a ring of keys; may be repeated")
	c.keys.addDecrypt(f)
	f.StringVar(&c.record, "record", "", "what was converted before: `sqlite:FILE`, mysql:DSN or none (a file in the user's state directory)")
	f.BoolVar(&c.dryRun, "dry-run", false, "resolve, check the right to push, say what would be done")
	f.BoolVar(&c.check, "check", false, "compare the result with the source before its tag appears")
	both, src, dest := addStoreFlags(f)
	c.backend.add(f, "put the data")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.convert(cmd.Context(), &c, args[0], args[1], src.over(both), dest.over(both))
	}
	return cmd
}

func (a *app) convert(ctx context.Context, c *convertFlags, source, target string, srcFlags, destFlags *storeFlags) (err error) {
	if slices.Equal(c.formats, []string{oci.Name}) {
		return a.reverse(ctx, c, source, target, srcFlags, destFlags)
	}
	attach := convert.Attach(c.attach)
	if !slices.Contains([]convert.Attach{convert.AttachTag, convert.AttachIndex, convert.AttachReferrer}, attach) {
		return usagef("--attach %s: tag, index and referrer are possible", c.attach)
	}
	var others []store.Source
	if c.chunkDict != "" {
		d, err := c.openDictionary(ctx, a, srcFlags)
		if err != nil {
			return err
		}
		defer closeQuietly(d)
		c.dictionary = d.Dictionary
		if d.Source != nil {
			others = append(others, d.Source)
		}
	}
	writers, err := c.writers(a, a.jobs)
	if err != nil {
		return err
	}
	if c.encrypt {
		c.record = "none"
	}
	known, err := a.openRecord(ctx, c.record)
	if err != nil {
		return err
	}
	defer closeQuietly(known)
	sides, err := c.openOutputs(ctx, a, writers, source, target, srcFlags, destFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sides.close()) }()
	p := a.newProgress()
	artifact, err := c.artifactManifest()
	if err != nil {
		return err
	}
	if artifact && attach != convert.AttachReferrer {
		return usagef("--option artifact-manifest: needs --attach referrer")
	}
	onProgress := p.layer
	if c.onProgress != nil {
		onProgress = c.onProgress
	}
	index := c.index
	if c.options[catalog.KeyMediaTypes] == string(overlaybd.MediaTypesOCI) {
		index.MediaType = ocispec.MediaTypeImageIndex
	}
	opt := convert.Options{Attach: attach, Subject: c.subject, Index: index, TempDir: c.tempDir, ArtifactManifest: artifact, Platforms: c.platforms, Jobs: a.jobs, Readers: catalog.LazyReaders(), OnProgress: onProgress, OnMissing: a.onMissing(sides.refs[0]), Others: others}
	if c.check {
		opt.BeforeTag = func(ctx context.Context, out convert.Output, made, source ocispec.Descriptor) error {
			want, got := convertedSides(sides.source, source, out.Target, made)
			known, err := c.keys.readers()
			if err != nil {
				return err
			}
			got.readers = known[:len(known)-1]
			return a.checkBeforeTag(ctx, want, got)
		}
	}
	if known != nil {
		opt.Record, opt.OpenPlace = known, a.placeOpener(sides.refs, srcFlags, destFlags)
	}
	if c.dryRun {
		for i, out := range sides.outputs {
			plan, err := convert.DryRun(ctx, sides.source, out, opt)
			if err != nil {
				return err
			}
			if err := a.printPlan(plan, []store.Ref{sides.refs[0], sides.refs[i+1]}); err != nil {
				return err
			}
		}
		return nil
	}
	res, err := convert.Convert(ctx, sides.source, sides.outputs, opt)
	p.end()
	if err != nil {
		return err
	}
	if c.report != nil {
		return c.report(res)
	}
	return a.printResult(res, sides.refs)
}

// openDictionary opens the chunk dictionary.
func (c *convertFlags) openDictionary(ctx context.Context, a *app, srcFlags *storeFlags) (*image.Dictionary, error) {
	refs, err := parseRefs(c.chunkDict)
	if err != nil {
		return nil, err
	}
	if c.dictStore != nil {
		srcFlags = c.dictStore
	}
	so, err := a.storeOptions(srcFlags)
	if err != nil {
		return nil, err
	}
	return image.OpenDictionary(ctx, refs[0], so)
}

// checkedSide is an image of a comparison.
type checkedSide struct {
	sources formats.Sources
	desc    ocispec.Descriptor
	readers []formats.Reader
}

// convertedSides are the source of a conversion and what was made of it.
func convertedSides(src formats.Sources, source ocispec.Descriptor, target formats.Sources, made ocispec.Descriptor) (want, got checkedSide) {
	all := catalog.Readers()
	return checkedSide{src, source, all[len(all)-1:]}, checkedSide{target, made, all[:len(all)-1]}
}

// checkBeforeTag compares an image that the target has, but nothing names yet, with its source.
func (a *app) checkBeforeTag(ctx context.Context, want, got checkedSide) error {
	source, err := image.OpenManifest(ctx, want.sources, nil, want.desc, image.Options{Readers: want.readers})
	if err != nil {
		return fmt.Errorf("check: source: %w", err)
	}
	defer closeQuietly(source)
	made, err := image.OpenManifest(ctx, got.sources, nil, got.desc, image.Options{Readers: got.readers})
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	defer closeQuietly(made)
	found := 0
	err = check.Compare(ctx, source.Image, made.Image, func(d check.Difference) error {
		found++
		_, err := fmt.Fprintln(a.stderr, d)
		return err
	})
	if err == nil && found > 0 {
		err = fmt.Errorf("%w: %d differences, nothing was tagged", errDifferent, found)
	}
	return err
}

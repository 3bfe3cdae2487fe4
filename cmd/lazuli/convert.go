package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/backend"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/encrypt"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

type convertFlags struct {
	subject            bool                        // of nydusify
	report             func(*convert.Result) error // prints the result; nil for the usual way
	formats, platforms []string
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
  # back: a plain image of a lazy one
  lazuli convert -f oci host/app:1-nydus host/app:1-plain
  # what would happen, and may I push?
  lazuli convert --dry-run node:19 host/node:19`,
		Args: exactArgs(2),
	}
	f := cmd.Flags()
	f.StringSliceVarP(&c.formats, "format", "f", []string{nydus.Name}, "format of the result: nydus; nydus-ref, an index beside the layers as they are; or oci, to make a plain image of a lazy one")
	f.StringVar(&c.attach, "attach", "tag", "tag: an image of its own; index: the source's manifests first, ours last; referrer: a manifest whose subject is the source")
	f.StringSliceVar(&c.platforms, "platform", nil, "`OS/ARCH[/VARIANT]`,... to convert (all)")
	f.StringVar(&c.compression, "compression", "zstd", "none, lz4 or zstd")
	f.IntVar(&c.level, "level", 0, "compression level, 1 to 19; without, what gzip found in the layers is used instead of a search")
	c.chunkSize = 1 << 20
	f.Var(&c.chunkSize, "chunk-size", "`SIZE` of chunks, a power of two from 4KiB to 16MiB")
	f.Var(&c.batchSize, "batch-size", "`SIZE` of batches, in which small files are compressed together; a power of two up to the chunk size (off)")
	f.StringVar(&c.chunkDict, "chunk-dict", "", "an `IMAGE` whose chunks are referred to instead of being stored again")
	f.StringVar(&c.digest, "digest", "blake3", "digest of chunks: blake3 or sha256")
	f.StringVar(&c.prefetch, "prefetch", "", "`FILE` with one path a line that runtimes read in advance; - is standard input")
	f.StringToStringVar(&c.options, "option", nil, "`KEY=VALUE` of what is rarer: spacing=SIZE, how much nydus-ref inflates at once; artifact-manifest=true, for referrers in old registries")
	f.IntVar(&c.fsVersion, "fs-version", 6, "version of Nydus' RAFS: 6; or 5, for runtimes that know no other")
	f.BoolVar(&c.encrypt, "encrypt", false, "encrypt the data with keys made by chance, which stand in the bootstrap: each conversion gives other bytes, and none is recorded")
	f.StringArrayVar(&c.encryptKeys, "encrypt-key", nil, "`RECIPIENT` who may read what --encrypt makes: jwe:FILE with a public key, pkcs7:FILE with a certificate, pgp:NAME=FILE with a ring of keys; may be repeated")
	c.keys.addDecrypt(f)
	f.StringVar(&c.record, "record", "", "what was converted before: `sqlite:FILE` or none (a file in the user's state directory)")
	f.BoolVar(&c.dryRun, "dry-run", false, "resolve, check the right to push, say what would be done")
	f.BoolVar(&c.check, "check", false, "compare the result with the source before its tag appears")
	both, src, dest := addStoreFlags(f)
	c.backend.add(f, "put the data")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.convert(cmd.Context(), &c, args[0], args[1], src.over(both), dest.over(both))
	}
	return cmd
}

// writer makes the format's writer of the flags.
func (c *convertFlags) writer(a *app, jobs int) (formats.Writer, error) {
	if len(c.formats) != 1 || c.formats[0] != nydus.Name && c.formats[0] != nydus.NameRef {
		return nil, usagef("--format %s: one of nydus, nydus-ref and oci is possible", strings.Join(c.formats, ","))
	}
	if c.fsVersion != 6 && (c.fsVersion != 5 || c.formats[0] == nydus.NameRef) {
		return nil, usagef("--fs-version %d: 6 is possible, and for nydus 5", c.fsVersion)
	}
	if err := c.checkOptions(); err != nil {
		return nil, err
	}
	paths, err := a.readLines(c.prefetch)
	if err != nil {
		return nil, err
	}
	c.encrypt = c.encrypt || len(c.encryptKeys) > 0
	if c.formats[0] == nydus.NameRef {
		if c.backend.config != "" || c.batchSize != 0 || c.encrypt || c.chunkDict != "" {
			return nil, usagef("--format nydus-ref: the data are the source's layers; --backend-config, --batch-size, --chunk-dict and --encrypt are for nydus")
		}
		return c.refWriter(paths, jobs)
	}
	var seal func(ocispec.Descriptor, []byte) (ocispec.Descriptor, []byte, error)
	if len(c.encryptKeys) > 0 {
		r, err := encrypt.ReadRecipients(c.encryptKeys)
		if err != nil {
			return nil, fmt.Errorf("--encrypt-key: %w", err)
		}
		seal = r.Encrypt
	}
	w, err := nydus.NewWriter(nydus.Options{
		Seal: seal, BatchSize: int(c.batchSize), Dictionary: c.dictionary, Detached: c.backend.config != "",
		FSVersion: c.fsVersion, Encrypt: c.encrypt, Compression: c.compression, Level: c.level, ChunkSize: int(c.chunkSize), Digest: c.digest, PrefetchPaths: paths, CPU: formats.NewCPU(jobs),
	})
	if err != nil {
		return nil, &usageError{err}
	}
	return w, nil
}

// refWriter makes the writer of nydus-ref, which has fewer choices.
func (c *convertFlags) refWriter(paths []string, jobs int) (formats.Writer, error) {
	spacing, err := c.sizeOption("spacing")
	if err != nil {
		return nil, err
	}
	w, err := nydus.NewRefWriter(nydus.RefOptions{ChunkSize: int(c.chunkSize), Spacing: spacing, PrefetchPaths: paths, CPU: formats.NewCPU(jobs)})
	if err != nil {
		return nil, &usageError{err}
	}
	return w, nil
}

// sizeOption returns the value of --option KEY=SIZE, or 0.
func (c *convertFlags) sizeOption(key string) (int, error) {
	text, ok := c.options[key]
	if !ok {
		return 0, nil
	}
	var size sizeFlag
	if err := size.Set(text); err != nil {
		return 0, usagef("--option %s=%s: %v", key, text, err)
	}
	return int(size), nil
}

// boolOption returns the value of --option KEY=true.
func (c *convertFlags) boolOption(key string) (bool, error) {
	text, ok := c.options[key]
	if !ok {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, usagef("--option %s=%s: true and false are possible", key, text)
	}
	return v, nil
}

// checkOptions finds keys of --option that nothing asks for.
func (c *convertFlags) checkOptions() error {
	for key := range c.options {
		switch key {
		case "artifact-manifest":
		case "spacing":
			if c.formats[0] != nydus.NameRef {
				return usagef("--option spacing is for nydus-ref")
			}
		default:
			return usagef("--option %s: spacing and artifact-manifest are possible", key)
		}
	}
	return nil
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
		dictFlags := srcFlags
		if c.dictStore != nil {
			dictFlags = c.dictStore
		}
		d, err := a.openDictionary(ctx, c.chunkDict, dictFlags)
		if err != nil {
			return err
		}
		defer closeQuietly(d)
		c.dictionary = d.Dictionary
		if d.source != nil {
			others = append(others, d.source)
		}
	}
	w, err := c.writer(a, a.jobs)
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
	refs, src, dest, err := a.openSides(ctx, source, target, srcFlags, destFlags)
	if err != nil {
		return err
	}
	defer closeQuietly(src)
	defer func() { err = errors.Join(err, dest.Close()) }()
	blobs, err := c.backend.open()
	if err != nil {
		return err
	}
	if blobs != nil {
		dest = backend.NewTarget(dest, blobs, nydus.MediaTypeBlob)
	}

	out := convert.Output{Writer: w, Target: dest}
	p := a.newProgress()
	artifact, err := c.boolOption("artifact-manifest")
	if err != nil {
		return err
	}
	if artifact && attach != convert.AttachReferrer {
		return usagef("--option artifact-manifest: needs --attach referrer")
	}
	opt := convert.Options{Attach: attach, Subject: c.subject, ArtifactManifest: artifact, Platforms: c.platforms, Jobs: a.jobs, Readers: readers()[:1], OnProgress: p.layer, Others: others}
	if c.check {
		opt.BeforeTag = func(ctx context.Context, out convert.Output, made, source ocispec.Descriptor) error {
			want, got := convertedSides(src, source, out.Target, made)
			known, err := c.keys.readers()
			if err != nil {
				return err
			}
			got.readers = known[:len(known)-1]
			return a.checkBeforeTag(ctx, want, got)
		}
	}
	if known != nil {
		opt.Record, opt.OpenPlace = known, a.placeOpener(refs, srcFlags, destFlags)
	}
	if c.dryRun {
		plan, err := convert.DryRun(ctx, src, out, opt)
		if err != nil {
			return err
		}
		return a.printPlan(plan, refs)
	}
	res, err := convert.Convert(ctx, src, []convert.Output{out}, opt)
	p.end()
	if err != nil {
		return err
	}
	if c.report != nil {
		return c.report(res)
	}
	return a.printResult(res, refs)
}

// checkedSide is an image of a comparison.
type checkedSide struct {
	sources formats.Sources
	desc    ocispec.Descriptor
	readers []formats.Reader
}

// convertedSides are the source of a conversion and what was made of it.
func convertedSides(src formats.Sources, source ocispec.Descriptor, target formats.Sources, made ocispec.Descriptor) (want, got checkedSide) {
	all := readers()
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

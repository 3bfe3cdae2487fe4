package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/backend"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/encrypt"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/store"
)

// convertFormat is a format that convert makes.
type convertFormat struct {
	name   string
	writer func(c *convertFlags, paths []string, cpu *formats.CPU) (formats.Writer, error)
	// options are the keys of --option that it knows.
	options []string
}

func convertFormats() []convertFormat {
	return []convertFormat{
		{nydus.Name, (*convertFlags).nydusWriter, nil},
		{nydus.NameRef, (*convertFlags).refWriter, []string{optionSpacing}},
		{overlaybd.Name, (*convertFlags).overlaybdWriter, []string{optionBlockSize, optionBaseLayer, optionMediaTypes, optionTrace}},
		{turbooci.Name, (*convertFlags).turboWriter, []string{optionBaseLayer, optionMediaTypes, optionTrace}},
	}
}

// Keys of --option.
const (
	optionSpacing    = "spacing"
	optionArtifact   = "artifact-manifest"
	optionBlockSize  = "block-size"
	optionBaseLayer  = "base-layer"
	optionMediaTypes = "media-types"
	optionTrace      = "trace"
)

var optionHelp = map[string]string{
	optionSpacing:    "=SIZE, how much nydus-ref inflates at once",
	optionArtifact:   "=true, for referrers in old registries",
	optionBlockSize:  "=SIZE, how much overlaybd compresses at once (16KiB)",
	optionBaseLayer:  "=true, the ext4 of overlaybd and turbo-oci in a layer of its own",
	optionTrace:      "=FILE, what to read in advance as overlaybd's daemon recorded it, for overlaybd and turbo-oci",
	optionMediaTypes: "=docker or oci, of overlaybd and turbo-oci (as the source)",
}

func optionsHelp() string {
	lines := make([]string, 0, len(optionHelp))
	for _, key := range slices.Sorted(maps.Keys(optionHelp)) {
		lines = append(lines, key+optionHelp[key])
	}
	return strings.Join(lines, "\n")
}

// writers makes the writers of the formats.
func (c *convertFlags) writers(a *app, jobs int) ([]formats.Writer, error) {
	known := convertFormats()
	names := make([]string, 0, len(known))
	for _, f := range known {
		names = append(names, f.name)
	}
	var wanted []convertFormat
	for i, name := range c.formats {
		k := slices.Index(names, name)
		if k < 0 || slices.Contains(c.formats[:i], name) {
			return nil, usagef("--format %s: %s, each once, or oci alone are possible", strings.Join(c.formats, ","), strings.Join(names, ", "))
		}
		wanted = append(wanted, known[k])
	}
	if err := c.checkFlags(wanted); err != nil {
		return nil, err
	}
	paths, err := a.readLines(c.prefetch)
	if err != nil {
		return nil, err
	}
	cpu := formats.NewCPU(jobs)
	writers := make([]formats.Writer, len(wanted))
	for i, f := range wanted {
		if writers[i], err = f.writer(c, paths, cpu); err != nil {
			return nil, err
		}
	}
	return writers, nil
}

// checkFlags finds flags that no wanted format knows.
func (c *convertFlags) checkFlags(wanted []convertFormat) error {
	var options []string
	isNydus, isRef, isDisk, isOverlaybd := false, false, false, false
	for _, f := range wanted {
		options = append(options, f.options...)
		isNydus = isNydus || f.name == nydus.Name
		isRef = isRef || f.name == nydus.NameRef
		isOverlaybd = isOverlaybd || f.name == overlaybd.Name
		isDisk = isDisk || f.name == overlaybd.Name || f.name == turbooci.Name
	}
	for key := range c.options {
		switch {
		case optionHelp[key] == "":
			return usagef("--option %s: %s are possible", key, strings.Join(slices.Sorted(maps.Keys(optionHelp)), ", "))
		case key != optionArtifact && !slices.Contains(options, key):
			return usagef("--option %s is not for %s", key, strings.Join(c.formats, ","))
		}
	}
	c.encrypt = c.encrypt || len(c.encryptKeys) > 0
	switch {
	case !isNydus && (c.backend.config != "" || c.batchSize != 0 || c.encrypt || c.chunkDict != ""):
		return usagef("--format %s: --backend-config, --batch-size, --chunk-dict and --encrypt are for nydus", strings.Join(c.formats, ","))
	case c.fsVersion != 6 && (c.fsVersion != 5 || !isNydus || isRef):
		return usagef("--fs-version %d: 6 is possible, and for nydus 5", c.fsVersion)
	case len(c.fileSystems) > 0 && !isDisk:
		return usagef("--fs is for overlaybd and turbo-oci")
	case c.compression == "none" && isOverlaybd:
		return usagef("--compression none: lz4 and zstd are possible for overlaybd")
	}
	for name := range c.outputs {
		if !slices.Contains(c.formats, name) {
			return usagef("--output %s=...: --format does not have it", name)
		}
	}
	return nil
}

func (c *convertFlags) nydusWriter(paths []string, cpu *formats.CPU) (formats.Writer, error) {
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
		FSVersion: c.fsVersion, Encrypt: c.encrypt, Compression: c.compression, Level: c.level, ChunkSize: int(c.chunkSize), Digest: c.digest, PrefetchPaths: paths, CPU: cpu,
	})
	if err != nil {
		return nil, &usageError{err}
	}
	return w, nil
}

// refWriter makes the writer of nydus-ref, which has fewer choices.
func (c *convertFlags) refWriter(paths []string, cpu *formats.CPU) (formats.Writer, error) {
	spacing, err := c.sizeOption(optionSpacing)
	if err != nil {
		return nil, err
	}
	w, err := nydus.NewRefWriter(nydus.RefOptions{ChunkSize: int(c.chunkSize), Spacing: spacing, PrefetchPaths: paths, CPU: cpu})
	if err != nil {
		return nil, &usageError{err}
	}
	return w, nil
}

func (c *convertFlags) overlaybdWriter(paths []string, cpu *formats.CPU) (formats.Writer, error) {
	block, err := c.sizeOption(optionBlockSize)
	if err != nil {
		return nil, err
	}
	base, err := c.boolOption(optionBaseLayer)
	if err != nil {
		return nil, err
	}
	types, err := c.mediaTypes()
	if err != nil {
		return nil, err
	}
	trace, err := c.trace()
	if err != nil {
		return nil, err
	}
	// One --fs is for all formats of disks; of several, the others are turbo-oci's.
	if len(c.fileSystems) > 0 && !slices.Contains(c.fileSystems, string(overlaybd.Ext4)) {
		return nil, usagef("--fs %s: overlaybd has ext4", strings.Join(c.fileSystems, ","))
	}
	w, err := overlaybd.NewWriter(overlaybd.Options{
		Compression: c.compression, BlockSize: block, Size: int64(c.vsize) << 30, BaseLayer: base, Prefetch: paths, Trace: trace, MediaTypes: types, CPU: cpu,
	})
	if err != nil {
		return nil, &usageError{err}
	}
	return w, nil
}

func (c *convertFlags) turboWriter(paths []string, cpu *formats.CPU) (formats.Writer, error) {
	types, err := c.mediaTypes()
	if err != nil {
		return nil, err
	}
	trace, err := c.trace()
	if err != nil {
		return nil, err
	}
	base, err := c.boolOption(optionBaseLayer)
	if err != nil {
		return nil, err
	}
	o := turbooci.Options{Size: int64(c.vsize) << 30, Prefetch: paths, Trace: trace, BaseLayer: base, MediaTypes: types, CPU: cpu}
	for _, fs := range slices.Concat(c.fileSystems, c.turboFS) {
		o.FileSystems = append(o.FileSystems, overlaybd.FS(fs))
	}
	w, err := turbooci.NewWriter(o)
	if err != nil {
		return nil, &usageError{err}
	}
	return w, nil
}

// trace returns what --option trace names.
func (c *convertFlags) trace() ([]byte, error) {
	file := c.options[optionTrace]
	if file == "" {
		return nil, nil
	}
	if c.prefetch != "" {
		return nil, usagef("--option trace: --prefetch is the other way to say what to read in advance")
	}
	p, err := os.ReadFile(file)
	if err == nil {
		err = overlaybd.CheckTrace(p, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("--option trace=%s: %w", file, err)
	}
	return p, nil
}

// mediaTypes returns whose media types the image has.
func (c *convertFlags) mediaTypes() (overlaybd.MediaTypes, error) {
	switch t := overlaybd.MediaTypes(c.options[optionMediaTypes]); t {
	case overlaybd.MediaTypesOfSource, overlaybd.MediaTypesDocker, overlaybd.MediaTypesOCI:
		return t, nil
	default:
		return "", usagef("--option media-types=%s: docker and oci are possible", t)
	}
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

// convertSides are the source of a conversion and its outputs.
type convertSides struct {
	source  store.Source
	outputs []convert.Output
	refs    []store.Ref // of the source, and of each output
}

// openOutputs opens the source and a target for each writer.
func (c *convertFlags) openOutputs(ctx context.Context, a *app, writers []formats.Writer, source, target string, srcFlags, destFlags *storeFlags) (_ *convertSides, err error) {
	s := &convertSides{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	blobs, err := c.backend.open()
	if err != nil {
		return nil, err
	}
	names := []string{source}
	for _, w := range writers {
		own, err := c.targetOf(w.Name(), target)
		if err != nil {
			return nil, err
		}
		names = append(names, own)
	}
	if s.refs, err = parseRefs(names...); err != nil {
		return nil, err
	}
	src, err := a.openSource(ctx, s.refs[0], srcFlags) // once: it may be standard input
	if err != nil {
		return nil, err
	}
	s.source = src
	for i, w := range writers {
		dest, err := a.openTarget(ctx, s.refs[i+1], destFlags)
		if err != nil {
			return nil, err
		}
		if blobs != nil {
			dest = backend.NewTarget(dest, blobs, nydus.MediaTypeBlob)
		}
		s.outputs = append(s.outputs, convert.Output{Writer: w, Target: dest})
	}
	return s, nil
}

// targetOf returns where the image of a format goes. Where each has a tag of its own, the format stands behind it.
func (c *convertFlags) targetOf(format, target string) (string, error) {
	if own := c.outputs[format]; own != "" {
		return own, nil
	}
	if len(c.formats) == 1 || c.attach != string(convert.AttachTag) {
		return target, nil
	}
	refs, err := parseRefs(target)
	if err != nil {
		return "", err
	}
	own, err := refs[0].WithTagSuffix("-" + format)
	if err != nil {
		return "", usagef("%s: %v; --output %s=TARGET names another", target, err, format)
	}
	return own.String(), nil
}

// close closes everything.
func (s *convertSides) close() error {
	errs := make([]error, 0, len(s.outputs))
	for _, o := range s.outputs {
		errs = append(errs, o.Target.Close())
	}
	if s.source != nil {
		closeQuietly(s.source)
	}
	return errors.Join(errs...)
}

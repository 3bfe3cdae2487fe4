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

	"github.com/lazuli-project/lazuli/backend"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/encrypt"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/store"
)

// optionArtifact is a key of --option that is none of a format.
const optionArtifact = "artifact-manifest"

// optionTrace is a key of --option whose value is a file.
const optionTrace = "trace"

// optionHelp are the keys of --option: what is rare enough to have no flag of its own.
var optionHelp = map[string]string{
	catalog.KeySpacing:    "=SIZE, how much nydus-ref inflates at once",
	optionArtifact:        "=true, for referrers in old registries",
	catalog.KeyBlockSize:  "=SIZE, how much overlaybd compresses at once (16KiB)",
	catalog.KeyBaseLayer:  "=true, the ext4 of overlaybd and turbo-oci in a layer of its own",
	optionTrace:           "=FILE, what to read in advance as overlaybd's daemon recorded it, for overlaybd and turbo-oci",
	catalog.KeyMediaTypes: "=docker or oci, of overlaybd and turbo-oci (as the source)",
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
	o, err := c.writerOptions(a)
	if err != nil {
		return nil, err
	}
	o.CPU = formats.NewCPU(jobs)
	for name := range c.outputs {
		if !slices.Contains(c.formats, name) {
			return nil, usagef("--output %s=...: --format does not have it", name)
		}
	}
	if c.turboFS == nil {
		return catalog.NewWriters(c.formats, *o)
	}
	writers := make([]formats.Writer, 0, len(c.formats))
	for _, name := range c.formats {
		own := *o
		if name == turbooci.Name {
			own.FileSystems = c.turboFS
		}
		w, err := catalog.NewWriter(name, own)
		if err != nil {
			return nil, err
		}
		writers = append(writers, w)
	}
	return writers, nil
}

// Defaults that flags show, and that formats have without them.
const (
	defaultChunkSize = 1 << 20
	defaultDigest    = "blake3"
	defaultFSVersion = 6
)

// writerOptions are what the flags say; what they leave out or say as it is anyway is left to the formats.
func (c *convertFlags) writerOptions(a *app) (*catalog.Options, error) {
	o := &catalog.Options{
		Compression: c.compression, Level: c.level, BatchSize: int(c.batchSize), Encrypt: c.encrypt || len(c.encryptKeys) > 0, FileSystems: c.fileSystems,
		Dictionary: c.dictionary, Detached: c.backend.config != "",
	}
	c.encrypt = o.Encrypt
	if c.chunkSize != defaultChunkSize {
		o.ChunkSize = int(c.chunkSize)
	}
	if c.digest != defaultDigest {
		o.Digest = c.digest
	}
	if c.fsVersion != defaultFSVersion {
		o.FSVersion = c.fsVersion
	}
	if size := int64(c.vsize) << 30; size != overlaybd.DefaultSize {
		o.DiskSize = size
	}
	for key, value := range c.options {
		switch {
		case optionHelp[key] == "":
			return nil, usagef("--option %s: %s are possible", key, strings.Join(slices.Sorted(maps.Keys(optionHelp)), ", "))
		case key == optionArtifact || key == optionTrace:
			continue
		}
		if err := o.Set(key, value); err != nil {
			return nil, fmt.Errorf("--option %w", err)
		}
	}
	var err error
	if o.Prefetch, err = a.readLines(c.prefetch); err != nil {
		return nil, err
	}
	if o.Trace, err = c.trace(); err != nil {
		return nil, err
	}
	if len(c.encryptKeys) > 0 {
		r, err := encrypt.ReadRecipients(c.encryptKeys)
		if err != nil {
			return nil, fmt.Errorf("--encrypt-key: %w", err)
		}
		o.Seal = r.Encrypt
	}
	return o, nil
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

// artifactManifest returns the value of --option artifact-manifest.
func (c *convertFlags) artifactManifest() (bool, error) {
	text, ok := c.options[optionArtifact]
	if !ok {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, usagef("--option %s=%s: true and false are possible", optionArtifact, text)
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

package output

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
)

// Keys of our exporters beside those of the formats, which [catalog.KeysOf] has.
const (
	KeyName           = "name"
	keyPush           = "push"
	keyInsecure       = "registry.insecure"
	keyOCITypes       = "oci-mediatypes"
	keyMerge          = "merge-manifest"
	keyAttach         = "attach"
	KeyDictionary     = "chunk-dict"
	keyOCICompression = "oci-compression"
	keyForce          = "force-compression"
	keyPushByDigest   = "push-by-digest"
)

// Merging says what the index consists of that an image becomes a part of.
type Merging int

// What it consists of.
const (
	MergeNothing Merging = iota // there is none
	MergeTag                    // what the tag names already, and ours
	MergeBuild                  // the plain image of the same build, and ours
)

// Options are what an output's keys say.
type Options struct {
	// Names that the image is pushed to, as references with tags; "*" alone is the name that the frontend gives.
	Names        []string
	Push         bool
	PushByDigest bool
	Insecure     bool // the registry
	Merge        Merging
	Attach       convert.Attach
	Dictionary   string // reference of an image whose chunks are referred to
	Format       catalog.Options
	Warnings     []string

	inner map[string]string // for the exporter of the plain image
}

// ownKeys are those that are no format's.
func ownKeys() []string {
	return []string{KeyName, keyPush, keyPushByDigest, keyInsecure, keyOCITypes, keyMerge, keyAttach, keyOCICompression, keyForce}
}

// innerKeys are those that the exporter of the plain image takes.
func innerKeys() []string {
	return []string{
		string(exptypes.OptKeyOCIArtifact), string(exptypes.OptKeyForceInlineAttestations), string(exptypes.OptKeyPreferNondistLayers),
		string(exptypes.OptKeySourceDateEpoch), string(exptypes.OptKeyRewriteTimestamp),
	}
}

// isInnerKey reports whether a key is for the exporter of the plain image, or a value that it takes for the frontend's: annotations,
// "annotation-manifest[linux/amd64].KEY" and the like, "containerimage.config".
func isInnerKey(key string) bool {
	return slices.Contains(innerKeys(), key) || strings.HasPrefix(key, "annotation.") || strings.HasPrefix(key, "annotation-") ||
		strings.HasPrefix(key, "annotation[") || strings.HasPrefix(key, "containerimage.") || strings.HasPrefix(key, "image.") || strings.HasPrefix(key, "refs.")
}

// Parse reads the keys of an output of a format. What is wrong with them is told in the words of BuildKit's exporters, where these have some.
func Parse(format string, attrs map[string]string) (*Options, error) {
	o := &Options{Push: true, Attach: convert.AttachTag, inner: make(map[string]string)}
	formatKeys := catalog.KeysOf(format)
	ociCompression, force := "", ""
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		value := attrs[key]
		var err error
		switch key {
		case KeyName:
			o.Names, err = ParseNames(value)
		case keyPush:
			err = parseBool(key, value, &o.Push)
		case keyPushByDigest:
			err = parseBool(key, value, &o.PushByDigest)
		case keyInsecure:
			err = parseBool(key, value, &o.Insecure)
		case keyOCITypes:
			err = o.setOCITypes(value)
		case keyMerge:
			err = o.setMerge(value)
		case keyAttach:
			err = o.setAttach(value)
		case keyOCICompression:
			ociCompression = value
		case keyForce:
			var b bool
			if err = parseBool(key, value, &b); b {
				force = "true"
			}
		case KeyDictionary:
			if !slices.Contains(formatKeys, catalog.KeyBatchSize) { // nydus
				err = fmt.Errorf("%s is not for it", key)
			}
			o.Dictionary = value
		case catalog.KeyPrefetch:
			value = strings.ReplaceAll(value, ",", "\n")
			fallthrough
		default:
			switch {
			case slices.Contains(formatKeys, key):
				err = o.Format.Set(key, value)
			case isInnerKey(key):
				o.inner[key] = value
			default:
				return nil, fmt.Errorf("unknown key %q for the exporter %s: %s are possible, and annotations", key, format, possibleKeys(format))
			}
		}
		if err != nil {
			return nil, fmt.Errorf("exporter %s: %w", format, err)
		}
	}
	if err := o.complete(ociCompression, force); err != nil {
		return nil, fmt.Errorf("exporter %s: %w", format, err)
	}
	return o, nil
}

// complete checks what keys mean together.
func (o *Options) complete(ociCompression, force string) error {
	switch {
	case o.Merge != MergeNothing && o.Attach != convert.AttachTag:
		return fmt.Errorf("%s makes an index: %s=%s cannot be at the same time", keyMerge, keyAttach, o.Attach)
	case o.Attach == convert.AttachIndex:
		o.Merge = MergeBuild
	}
	if o.PushByDigest && (o.Merge != MergeNothing || o.Attach == convert.AttachReferrer) {
		return fmt.Errorf("%s: %s and %s are about a tag", keyPushByDigest, keyMerge, keyAttach)
	}
	if o.Push && len(o.Names) == 0 {
		return fmt.Errorf("%s is needed to push the image, or %s=false", KeyName, keyPush)
	}
	for _, n := range o.Names {
		if o.PushByDigest && n != "*" {
			if named, err := reference.ParseNormalizedNamed(n); err == nil && !reference.IsNameOnly(named) {
				return fmt.Errorf("%s: %s has a tag", keyPushByDigest, n)
			}
		}
	}
	if ociCompression != "" {
		o.inner[string(exptypes.OptKeyLayerCompression)] = ociCompression
	}
	if force != "" {
		o.inner[keyForce] = force
	}
	return nil
}

// NeedsPlain reports whether the plain image is pushed, too.
func (o *Options) NeedsPlain() bool {
	return o.Merge == MergeBuild || o.Attach == convert.AttachReferrer
}

// PlainAttrs returns the keys of the exporter of the plain image, which stores and pushes nothing itself. asIs says that its layers
// become visible, so that they are compressed as the user wants.
func (o *Options) PlainAttrs(asIs bool) map[string]string {
	attrs := maps.Clone(o.inner)
	attrs[string(exptypes.OptKeyName)] = strings.Join(o.Names, ",") // attestations name their subject by it
	attrs[string(exptypes.OptKeyPush)] = "false"
	attrs[string(exptypes.OptKeyStore)] = "false"
	attrs[string(exptypes.OptKeyOCITypes)] = "true"
	if !asIs {
		// Plain tars are what is converted best, and nobody else gets these.
		attrs[string(exptypes.OptKeyLayerCompression)] = "uncompressed"
		delete(attrs, keyForce)
	}
	return attrs
}

// possibleKeys lists the keys for messages.
func possibleKeys(format string) string {
	keys := slices.Concat(ownKeys(), catalog.KeysOf(format), innerKeys())
	if slices.Contains(keys, catalog.KeyBatchSize) {
		keys = append(keys, KeyDictionary)
	}
	slices.Sort(keys)
	return strings.Join(slices.Compact(keys), ", ")
}

// parseBool reads what is true or false, as BuildKit's exporters do: nothing is true, and errors have the same text.
func parseBool(key, value string, b *bool) error {
	v, err := strconv.ParseBool(cmp.Or(value, "true"))
	if err != nil {
		return fmt.Errorf("non-bool value specified for %s: %w", key, err)
	}
	*b = v
	return nil
}

// setOCITypes takes oci-mediatypes, which is always so: annotations, artifact types and subjects exist in OCI's manifests only.
func (o *Options) setOCITypes(value string) error {
	oci := true
	err := parseBool(keyOCITypes, value, &oci)
	if err == nil && !oci {
		o.Warnings = append(o.Warnings, keyOCITypes+"=false has no effect: images that are read lazily need OCI's media types")
	}
	return err
}

func (o *Options) setMerge(value string) error {
	if value == "build" {
		o.Merge = MergeBuild
		return nil
	}
	merge := false
	if err := parseBool(keyMerge, value, &merge); err != nil {
		return fmt.Errorf("%w: true, false and build are possible", err)
	}
	o.Merge = MergeNothing
	if merge {
		o.Merge = MergeTag
	}
	return nil
}

func (o *Options) setAttach(value string) error {
	switch a := convert.Attach(value); a {
	case convert.AttachTag, convert.AttachIndex, convert.AttachReferrer:
		o.Attach = a
		return nil
	}
	return fmt.Errorf("%s=%q: tag, index and referrer are possible", keyAttach, value)
}

// ParseNames reads references with commas between them.
func ParseNames(value string) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	if value == "*" {
		return []string{"*"}, nil
	}
	var names []string
	for n := range strings.SplitSeq(value, ",") {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, fmt.Errorf("%s=%q: %w", KeyName, n, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return nil, fmt.Errorf("%s=%q: %w", KeyName, n, errDigested)
		}
		names = append(names, n)
	}
	return names, nil
}

var errDigested = errors.New("what an image is pushed to has no digest")

// KeepsLayers reports whether images of the writer refer to the layers of the plain image.
func KeepsLayers(w formats.Writer) bool {
	k, ok := w.(formats.KeepsLayers)
	return ok && k.KeepsLayers()
}

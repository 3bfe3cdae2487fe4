package exporter

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
)

// Keys of our exporters beside those of the formats, which [catalog.KeysOf] has.
const (
	keyName           = "name"
	keyPush           = "push"
	keyInsecure       = "registry.insecure"
	keyOCITypes       = "oci-mediatypes"
	keyMerge          = "merge-manifest"
	keyAttach         = "attach"
	keyDictionary     = "chunk-dict"
	keyOCICompression = "oci-compression"
	keyForce          = "force-compression"
	keyPushByDigest   = "push-by-digest"
)

// merging says what the index consists of that an image becomes a part of.
type merging int

const (
	mergeNothing merging = iota // there is none
	mergeTag                    // what the tag names already, and ours
	mergeBuild                  // the plain image of the same build, and ours
)

// options are an output's keys.
type options struct {
	names        []string // as references with tags; "*" alone is the name that the frontend gives
	push         bool
	pushByDigest bool
	insecure     bool
	merge        merging
	attach       convert.Attach
	dictionary   string
	format       catalog.Options
	inner        map[string]string // for the exporter of the plain image
	warnings     []string
}

// ownKeys are those that are no format's.
func ownKeys() []string {
	return []string{keyName, keyPush, keyPushByDigest, keyInsecure, keyOCITypes, keyMerge, keyAttach, keyOCICompression, keyForce}
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

// parseOptions reads the keys of an output of a format.
func parseOptions(format string, attrs map[string]string) (*options, error) {
	o := &options{push: true, attach: convert.AttachTag, inner: make(map[string]string)}
	formatKeys := catalog.KeysOf(format)
	ociCompression, force := "", ""
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		value := attrs[key]
		var err error
		switch key {
		case keyName:
			o.names, err = parseNames(value)
		case keyPush:
			err = parseBool(key, value, &o.push)
		case keyPushByDigest:
			err = parseBool(key, value, &o.pushByDigest)
		case keyInsecure:
			err = parseBool(key, value, &o.insecure)
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
		case keyDictionary:
			if !slices.Contains(formatKeys, catalog.KeyBatchSize) { // nydus
				err = fmt.Errorf("%s is not for it", key)
			}
			o.dictionary = value
		case catalog.KeyPrefetch:
			value = strings.ReplaceAll(value, ",", "\n")
			fallthrough
		default:
			switch {
			case slices.Contains(formatKeys, key):
				err = o.format.Set(key, value)
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
func (o *options) complete(ociCompression, force string) error {
	switch {
	case o.merge != mergeNothing && o.attach != convert.AttachTag:
		return fmt.Errorf("%s makes an index: %s=%s cannot be at the same time", keyMerge, keyAttach, o.attach)
	case o.attach == convert.AttachIndex:
		o.merge = mergeBuild
	}
	if o.pushByDigest && (o.merge != mergeNothing || o.attach == convert.AttachReferrer) {
		return fmt.Errorf("%s: %s and %s are about a tag", keyPushByDigest, keyMerge, keyAttach)
	}
	if o.push && len(o.names) == 0 {
		return fmt.Errorf("%s is needed to push the image, or %s=false", keyName, keyPush)
	}
	for _, n := range o.names {
		if o.pushByDigest && n != "*" {
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

// needsPlain reports whether the plain image is pushed, too.
func (o *options) needsPlain() bool {
	return o.merge == mergeBuild || o.attach == convert.AttachReferrer
}

// innerAttrs returns the keys of the exporter of the plain image, which stores and pushes nothing itself. asIs says that its layers
// become visible, so that they are compressed as the user wants.
func (o *options) innerAttrs(asIs bool) map[string]string {
	attrs := maps.Clone(o.inner)
	attrs[string(exptypes.OptKeyName)] = strings.Join(o.names, ",") // attestations name their subject by it
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
		keys = append(keys, keyDictionary)
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
func (o *options) setOCITypes(value string) error {
	oci := true
	err := parseBool(keyOCITypes, value, &oci)
	if err == nil && !oci {
		o.warnings = append(o.warnings, keyOCITypes+"=false has no effect: images that are read lazily need OCI's media types")
	}
	return err
}

func (o *options) setMerge(value string) error {
	if value == "build" {
		o.merge = mergeBuild
		return nil
	}
	merge := false
	if err := parseBool(keyMerge, value, &merge); err != nil {
		return fmt.Errorf("%w: true, false and build are possible", err)
	}
	o.merge = mergeNothing
	if merge {
		o.merge = mergeTag
	}
	return nil
}

func (o *options) setAttach(value string) error {
	switch a := convert.Attach(value); a {
	case convert.AttachTag, convert.AttachIndex, convert.AttachReferrer:
		o.attach = a
		return nil
	}
	return fmt.Errorf("%s=%q: tag, index and referrer are possible", keyAttach, value)
}

// parseNames reads references with commas between them.
func parseNames(value string) ([]string, error) {
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
			return nil, fmt.Errorf("%s=%q: %w", keyName, n, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return nil, fmt.Errorf("%s=%q: %w", keyName, n, errDigested)
		}
		names = append(names, n)
	}
	return names, nil
}

var errDigested = errors.New("what an image is pushed to has no digest")

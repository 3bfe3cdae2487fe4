package encrypt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/containers/ocicrypt/blockcipher"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/keywrap"
	"github.com/containers/ocicrypt/keywrap/jwe"
	"github.com/containers/ocicrypt/keywrap/pgp"
	"github.com/containers/ocicrypt/keywrap/pkcs7"
	"github.com/containers/ocicrypt/utils"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Suffix is what the media type of an encrypted layer ends with.
const Suffix = "+encrypted"

const (
	annotationPrefix = "org.opencontainers.image.enc."
	annotationPublic = annotationPrefix + "pubopts"

	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// wrappers returns the ways of wrapping, in the order in which they are tried.
func wrappers() []keywrap.KeyWrapper {
	return []keywrap.KeyWrapper{jwe.NewKeyWrapper(), pkcs7.NewKeyWrapper(), pgp.NewKeyWrapper()}
}

// Recipients are who may decrypt. They may be used concurrently.
type Recipients struct{ config *config.EncryptConfig }

// ReadRecipients reads recipients as the field's tools name them: "jwe:FILE" with a public key, "pkcs7:FILE" with a
// certificate, or "pgp:NAME=FILE" with the name or mail address of a key in a ring of public keys.
func ReadRecipients(names []string) (*Recipients, error) {
	var keys, certificates [][]byte
	var all []config.CryptoConfig
	for _, name := range names {
		kind, file, ok := strings.Cut(name, ":")
		var who string
		if kind == "pgp" {
			who, file, ok = strings.Cut(file, "=")
		}
		if !ok {
			return nil, fmt.Errorf("recipient %q: jwe:FILE, pkcs7:FILE and pgp:NAME=FILE are possible", name)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", name, err)
		}
		switch {
		case kind == "jwe" && utils.IsPublicKey(content):
			keys = append(keys, content)
		case kind == "jwe":
			err = errors.New("no public key")
		case kind == "pkcs7" && utils.IsCertificate(content):
			certificates = append(certificates, content)
		case kind == "pkcs7":
			err = errors.New("no certificate")
		case kind == "pgp":
			var c config.CryptoConfig
			if c, err = config.EncryptWithGpg([][]byte{[]byte(who)}, content); err == nil {
				all = append(all, c)
			}
		default:
			err = fmt.Errorf("%q: jwe, pkcs7 and pgp are possible", kind)
		}
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", name, err)
		}
	}
	if len(keys) > 0 {
		c, err := config.EncryptWithJwe(keys)
		if err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
		all = append(all, c)
	}
	if len(certificates) > 0 {
		c, err := config.EncryptWithPkcs7(certificates)
		if err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no recipient")
	}
	return &Recipients{config.CombineCryptoConfigs(all).EncryptConfig}, nil
}

// Encrypt encrypts a layer and returns its new descriptor and content. Each call takes another key.
func (r *Recipients) Encrypt(desc ocispec.Descriptor, layer []byte) (ocispec.Descriptor, []byte, error) {
	fail := func(err error) (ocispec.Descriptor, []byte, error) {
		return ocispec.Descriptor{}, nil, fmt.Errorf("encrypt layer %s: %w", desc.Digest, err)
	}
	cipher, err := blockcipher.NewLayerBlockCipherHandler()
	if err != nil {
		return fail(err)
	}
	stream, finish, err := cipher.Encrypt(bytes.NewReader(layer), blockcipher.AES256CTR)
	if err != nil {
		return fail(err)
	}
	out, err := io.ReadAll(stream)
	if err != nil {
		return fail(err)
	}
	options, err := finish()
	if err != nil {
		return fail(err)
	}
	options.Private.Digest = desc.Digest
	private, err := json.Marshal(options.Private)
	if err != nil {
		return fail(err)
	}
	public, err := json.Marshal(options.Public)
	if err != nil {
		return fail(err)
	}
	d := desc
	d.Annotations = plainAnnotations(desc.Annotations)
	wrapped := false
	for _, w := range wrappers() {
		key, err := w.WrapKeys(r.config, private)
		if err != nil {
			return fail(err)
		}
		if len(key) > 0 {
			d.Annotations[w.GetAnnotationID()] = base64.StdEncoding.EncodeToString(key)
			wrapped = true
		}
	}
	if !wrapped {
		return fail(errors.New("no key was wrapped"))
	}
	d.Annotations[annotationPublic] = base64.StdEncoding.EncodeToString(public)
	if d.MediaType == dockerLayerGzip {
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	d.MediaType += Suffix
	d.Digest, d.Size = digest.FromBytes(out), int64(len(out))
	return d, out, nil
}

// plainAnnotations returns a copy without what belongs to the encryption.
func plainAnnotations(annotations map[string]string) map[string]string {
	out := make(map[string]string, len(annotations))
	maps.Copy(out, annotations)
	maps.DeleteFunc(out, func(key, _ string) bool { return strings.HasPrefix(key, annotationPrefix) })
	return out
}

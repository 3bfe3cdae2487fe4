package encrypt

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containers/ocicrypt/blockcipher"
	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/utils"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// ErrNoKey says that none of the keys opens a layer.
var ErrNoKey = errors.New("no key opens the layer")

// maxAnnotation bounds the wrapped keys of a layer, in bytes.
const maxAnnotation = 1 << 20

// Keys open layers. They may be used concurrently.
type Keys struct{ config *config.DecryptConfig }

// ReadKeys reads private keys: files with RSA or EC keys, certificates that belong to them, or rings of OpenPGP secret keys. A
// password may follow a name as "FILE:file=PASSWORDFILE" or "FILE:pass=PASSWORD".
func ReadKeys(names []string) (*Keys, error) {
	var keys, passwords, certificates, rings, ringPasswords [][]byte
	for _, name := range names {
		file, password, err := splitPassword(name)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		private, err := utils.IsPrivateKey(content, password)
		switch {
		case utils.IsPasswordError(err):
			return nil, fmt.Errorf("key %s: %w", file, err)
		case private:
			keys, passwords = append(keys, content), append(passwords, password)
		case utils.IsCertificate(content):
			certificates = append(certificates, content)
		case utils.IsGPGPrivateKeyRing(content):
			rings, ringPasswords = append(rings, content), append(ringPasswords, password)
		default:
			return nil, fmt.Errorf("key %s: neither a private key nor a certificate nor a ring of keys", file)
		}
	}
	var all []config.CryptoConfig
	add := func(c config.CryptoConfig, err error) error {
		all = append(all, c)
		return err
	}
	var err error
	if len(keys) > 0 {
		err = add(config.DecryptWithPrivKeys(keys, passwords))
	}
	if len(certificates) > 0 && err == nil {
		err = add(config.DecryptWithX509s(certificates))
	}
	if len(rings) > 0 && err == nil {
		err = add(config.DecryptWithGpgPrivKeys(rings, ringPasswords))
	}
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if len(all) == 0 {
		return nil, errors.New("no key")
	}
	return &Keys{config.CombineCryptoConfigs(all).DecryptConfig}, nil
}

// splitPassword splits the name of a file from its password.
func splitPassword(name string) (file string, password []byte, err error) {
	if file, from, ok := strings.Cut(name, ":file="); ok {
		password, err := os.ReadFile(from)
		return file, []byte(strings.TrimRight(string(password), "\r\n")), err
	}
	file, text, _ := strings.Cut(name, ":pass=")
	return file, []byte(text), nil
}

// Encrypted reports whether a layer is encrypted.
func Encrypted(desc ocispec.Descriptor) bool { return strings.HasSuffix(desc.MediaType, Suffix) }

// Decrypt returns the plain form of an encrypted layer. It reads r as it is read, and gives an error in place of the end where the
// layer is not what was encrypted. Errors wrap [ErrNoKey] where no key fits, and blob.ErrCorrupt for wrong annotations.
func (k *Keys) Decrypt(desc ocispec.Descriptor, r io.Reader) (io.Reader, error) {
	private, err := k.unwrap(desc)
	if err != nil {
		return nil, fmt.Errorf("encrypted layer %s: %w", desc.Digest, err)
	}
	public, err := base64.StdEncoding.DecodeString(desc.Annotations[annotationPublic])
	var options blockcipher.LayerBlockCipherOptions
	if err == nil {
		err = errors.Join(json.Unmarshal(private, &options.Private), json.Unmarshal(public, &options.Public))
	}
	if err != nil {
		return nil, fmt.Errorf("encrypted layer %s: options: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	cipher, err := blockcipher.NewLayerBlockCipherHandler()
	if err != nil {
		return nil, fmt.Errorf("encrypted layer %s: %w", desc.Digest, err)
	}
	d := &decrypted{source: sourceReader{r: r}, digest: desc.Digest}
	if d.plain, _, err = cipher.Decrypt(&d.source, options); err != nil {
		return nil, fmt.Errorf("encrypted layer %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	return d, nil
}

// decrypted reads the plain form, and tells errors of the source from damage.
type decrypted struct {
	source sourceReader
	plain  io.Reader
	digest digest.Digest
}

func (d *decrypted) Read(p []byte) (int, error) {
	n, err := d.plain.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF) && d.source.err == nil:
		return n, err
	case d.source.err != nil:
		return n, d.source.err
	}
	return n, fmt.Errorf("encrypted layer %s: %w: %w", d.digest, blob.ErrCorrupt, err)
}

// sourceReader keeps the error of the source.
type sourceReader struct {
	r   io.Reader
	err error // but io.EOF
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// unwrap finds the key of a layer.
func (k *Keys) unwrap(desc ocispec.Descriptor) ([]byte, error) {
	errs := []error{ErrNoKey}
	for _, w := range wrappers() {
		text := desc.Annotations[w.GetAnnotationID()]
		if text == "" || w.NoPossibleKeys(k.config.Parameters) {
			continue
		}
		if len(text) > maxAnnotation {
			return nil, fmt.Errorf("wrapped keys of %d bytes: %w", len(text), blob.ErrCorrupt)
		}
		for part := range strings.SplitSeq(text, ",") {
			wrapped, err := base64.StdEncoding.DecodeString(part)
			if err != nil {
				return nil, fmt.Errorf("wrapped key: %w: %w", blob.ErrCorrupt, err)
			}
			private, err := w.UnwrapKey(k.config, wrapped)
			if err == nil {
				return private, nil
			}
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

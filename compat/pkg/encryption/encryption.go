// Package encryption encrypts bootstrap layers in containerd's content store for their recipients, in the way of ocicrypt, by
// package encrypt of github.com/lazuli-project/lazuli.
package encryption

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/encrypt"
)

// maxLayer is the largest bootstrap layer, in bytes.
const maxLayer = 1 << 30

// EncryptNydusBootstrap encrypts a layer that is in the store, stores the result there and returns its descriptor. Recipients are
// "jwe:FILE" with a public key, "pkcs7:FILE" with a certificate, or "pgp:NAME=FILE" with a ring of public keys.
func EncryptNydusBootstrap(ctx context.Context, cs content.Store, desc ocispec.Descriptor, encryptRecipients []string) (ocispec.Descriptor, error) {
	recipients, err := encrypt.ReadRecipients(encryptRecipients)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := readLayer(ctx, cs, desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	sealed, text, err := recipients.Encrypt(desc, layer)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return sealed, writeLayer(ctx, cs, "encrypted-bootstrap-", sealed, text)
}

// DeryptNydusBootstrap decrypts a layer that is in the store, stores the result there and returns its descriptor. Keys are files with
// private keys. With unwrapOnly it only finds out whether one of the keys opens the layer, and the result is empty.
func DeryptNydusBootstrap(ctx context.Context, cs content.Store, desc ocispec.Descriptor, decryptKeys []string, unwrapOnly bool) (ocispec.Descriptor, error) {
	keys, err := encrypt.ReadKeys(decryptKeys)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if unwrapOnly {
		_, err := keys.Decrypt(desc, bytes.NewReader(nil))
		return ocispec.Descriptor{}, err
	}
	layer, err := readLayer(ctx, cs, desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	r, err := keys.Decrypt(desc, bytes.NewReader(layer))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	text, err := io.ReadAll(r) // no longer than the layer
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("decrypt layer %s: %w", desc.Digest, err)
	}
	plain := desc
	plain.MediaType = strings.TrimSuffix(desc.MediaType, encrypt.Suffix)
	plain.Digest, plain.Size = digest.FromBytes(text), int64(len(text))
	plain.Annotations = make(map[string]string, len(desc.Annotations))
	for k, v := range desc.Annotations {
		if !strings.HasPrefix(k, "org.opencontainers.image.enc.") {
			plain.Annotations[k] = v
		}
	}
	return plain, writeLayer(ctx, cs, "decrypted-bootstrap-", plain, text)
}

func readLayer(ctx context.Context, cs content.Store, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxLayer {
		return nil, fmt.Errorf("layer %s has %d bytes, the limit is %d", desc.Digest, desc.Size, maxLayer)
	}
	layer, err := content.ReadBlob(ctx, cs, desc)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	return layer, nil
}

func writeLayer(ctx context.Context, cs content.Store, prefix string, desc ocispec.Descriptor, text []byte) error {
	if err := content.WriteBlob(ctx, cs, prefix+desc.Digest.String(), bytes.NewReader(text), desc); err != nil {
		return fmt.Errorf("store layer %s: %w", desc.Digest, err)
	}
	return nil
}

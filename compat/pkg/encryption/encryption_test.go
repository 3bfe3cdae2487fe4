package encryption_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/encryption"
	"github.com/lazuli-project/lazuli/encrypt"
)

// keys writes a pair of keys and returns the files of the public and the private one.
func keys(t *testing.T) (public, private string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	public, private = filepath.Join(dir, "public"), filepath.Join(dir, "private")
	err = errors.Join(os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), 0o600),
		os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func TestEncryption(t *testing.T) {
	t.Parallel()
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	public, private := keys(t)
	_, foreign := keys(t)
	layer := bytes.Repeat([]byte("a bootstrap "), 1000)
	desc := ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerGzip, Digest: digest.FromBytes(layer), Size: int64(len(layer)), Annotations: map[string]string{"a": "b"}}
	if err := content.WriteBlob(t.Context(), cs, "ref", bytes.NewReader(layer), desc); err != nil {
		t.Fatal(err)
	}
	sealed, err := encryption.EncryptNydusBootstrap(t.Context(), cs, desc, []string{"jwe:" + public})
	if err != nil {
		t.Fatal(err)
	}
	if sealed.MediaType != ocispec.MediaTypeImageLayerGzip+"+encrypted" || sealed.Annotations["a"] != "b" || len(sealed.Annotations) < 3 {
		t.Errorf("%+v", sealed)
	}
	if p, err := content.ReadBlob(t.Context(), cs, sealed); err != nil || digest.FromBytes(p) != sealed.Digest || bytes.Contains(p, []byte("bootstrap")) {
		t.Errorf("%v", err)
	}
	plain, err := encryption.DeryptNydusBootstrap(t.Context(), cs, sealed, []string{private}, false)
	if err != nil || plain.Digest != desc.Digest || plain.Size != desc.Size || plain.MediaType != ocispec.MediaTypeImageLayerGzip || len(plain.Annotations) != 1 {
		t.Errorf("%+v, %v", plain, err)
	}
	if none, err := encryption.DeryptNydusBootstrap(t.Context(), cs, sealed, []string{private}, true); err != nil || none.Digest != "" {
		t.Errorf("%+v, %v", none, err)
	}
	for _, unwrap := range []bool{false, true} {
		if _, err := encryption.DeryptNydusBootstrap(t.Context(), cs, sealed, []string{foreign}, unwrap); !errors.Is(err, encrypt.ErrNoKey) {
			t.Errorf("with a foreign key: %v", err)
		}
	}
	if _, err := encryption.EncryptNydusBootstrap(t.Context(), cs, desc, nil); err == nil {
		t.Error("encrypted for nobody")
	}
	desc.Digest = digest.FromString("missing")
	if _, err := encryption.EncryptNydusBootstrap(t.Context(), cs, desc, []string{"jwe:" + public}); err == nil {
		t.Error("encrypted what is not there")
	}
}

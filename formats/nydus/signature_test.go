package nydus

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

func TestSignature(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	boot := readTestdata(t, "v6-minimal/image.boot")
	sum := sha256.Sum256(boot)
	raw, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := base64.StdEncoding.EncodeToString(raw)
	s := oneLayer(imagetest.Tar(t, imagetest.File("image/image.boot", string(boot))))
	for _, c := range []struct {
		name      string
		key       *rsa.PublicKey
		signature string
		err       error
	}{
		{"right", &key.PublicKey, signature, nil},
		{"nobody asks", nil, "nonsense", nil},
		{"another key", &other.PublicKey, signature, ErrSignature},
		{"missing", &key.PublicKey, "", ErrSignature},
		{"no base64", &key.PublicKey, "!", ErrSignature},
		{"changed", &key.PublicKey, strings.Repeat("A", len(signature)-2) + "==", ErrSignature},
	} {
		m := s.manifest()
		if c.signature != "" {
			m.Manifest.Layers[0].Annotations[AnnotationSignature] = c.signature
		}
		if _, err := (Reader{BootstrapKey: c.key}).Open(t.Context(), m, s); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalPKIXPublicKey(curve.Public())
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	for _, c := range []struct {
		name string
		text []byte
		ok   bool
	}{
		{"PKIX", block("PUBLIC KEY", pkix), true}, {"PKCS #1", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&key.PublicKey)), true},
		{"elliptic curve", block("PUBLIC KEY", ec), false}, {"text", []byte("key"), false}, {"damaged", block("PUBLIC KEY", pkix[1:]), false},
		{"damaged PKCS #1", block("RSA PUBLIC KEY", pkix), false},
	} {
		got, err := ParsePublicKey(c.text)
		if (err == nil) != c.ok || c.ok && !got.Equal(key.Public()) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

type unsealer struct {
	decrypt func(io.Reader) (io.Reader, error)
}

func (u *unsealer) Decrypt(_ ocispec.Descriptor, r io.Reader) (io.Reader, error) { return u.decrypt(r) }

// Bootstrap layers that are sealed on the way out are opened on the way in.
func TestSealed(t *testing.T) {
	t.Parallel()
	flip := func(p []byte) []byte {
		out := make([]byte, len(p))
		for i := range p {
			out[i] = p[i] ^ 0xff
		}
		return out
	}
	seal := func(d ocispec.Descriptor, p []byte) (ocispec.Descriptor, []byte, error) {
		out := flip(p)
		sealed := formats.DigestOf(d.MediaType+encryptedSuffix, out)
		sealed.Annotations = d.Annotations
		return sealed, out, nil
	}
	m := newMemory()
	// Among the layers is one without content.
	img := imagetest.NewImage(t, append(imagetest.Edge(t).Layers, imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("etc"))))...)
	made, _ := convert(t, newWriter(t, Options{Encrypt: true, Seal: seal}), m, manifestOf(t, img), img)
	last := made.Manifest.Layers[len(made.Manifest.Layers)-1]
	if last.MediaType != ocispec.MediaTypeImageLayerGzip+encryptedSuffix || made.Manifest.Layers[0].Annotations[AnnotationEncrypted] != "true" {
		t.Errorf("%+v", made.Manifest.Layers)
	}
	for _, l := range made.Manifest.Layers[:len(made.Manifest.Layers)-1] {
		src, err := m.Open(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := nydusblob.FindSection(t.Context(), src, nydusblob.SectionBootstrap); s != nil || err != nil {
			t.Errorf("layer %s has a bootstrap, with the key of its data: %+v, %v", l.Digest, s, err)
		}
	}
	if _, err := (Reader{}).Open(t.Context(), made, m); !errors.Is(err, ErrSealed) {
		t.Errorf("without a key: %v", err)
	}
	right := &unsealer{func(r io.Reader) (io.Reader, error) {
		p, err := io.ReadAll(r)
		return bytes.NewReader(flip(p)), err
	}}
	opened, err := Reader{Unsealer: right}.Open(t.Context(), made, m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(t.Context(), opened)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(imagetest.EdgeTree(t)) || len(made.Manifest.Layers) != 5 {
		t.Errorf("%d files, %d layers", len(got), len(made.Manifest.Layers))
	}
	wrong := errors.New("wrong key")
	_, err = Reader{Unsealer: &unsealer{func(io.Reader) (io.Reader, error) { return nil, wrong }}}.Open(t.Context(), made, m)
	if !errors.Is(err, wrong) || errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

package encrypt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func writePEM(t *testing.T, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pairOf writes both halves of a key.
func pairOf(t *testing.T, private, public any) (privateFile, publicFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	privateFile = writePEM(t, "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(public)
	return privateFile, writePEM(t, "PUBLIC KEY", der, err)
}

func rsaPair(t *testing.T) (*rsa.PrivateKey, string, string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, public := pairOf(t, k, k.Public())
	return k, private, public
}

func layer() (ocispec.Descriptor, []byte) {
	content := []byte(strings.Repeat("a bootstrap ", 10000))
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(content), Size: int64(len(content)),
		Annotations: map[string]string{"other": "kept"}}, content
}

// decrypt reads a layer with the keys.
func decrypt(desc ocispec.Descriptor, stored []byte, keys ...string) ([]byte, error) {
	k, err := ReadKeys(keys)
	if err != nil {
		return nil, err
	}
	r, err := k.Decrypt(desc, bytes.NewReader(stored))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	key, private, public := rsaPair(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "someone"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	certificate := writePEM(t, "CERTIFICATE", der, err)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curvePrivate, curvePublic := pairOf(t, curve, curve.Public())
	person, err := openpgp.NewEntity("Someone", "", "someone@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var ring, secrets bytes.Buffer
	if err := errors.Join(person.SerializePrivate(&secrets, nil), person.Serialize(&ring)); err != nil {
		t.Fatal(err)
	}
	ringFile, secretFile := write(t, "ring.gpg", ring.Bytes()), write(t, "secret.gpg", secrets.Bytes())

	_, strange, _ := rsaPair(t)
	for _, c := range []struct {
		name       string
		recipients []string
		keys       []string
	}{
		{"rsa", []string{"jwe:" + public}, []string{private}},
		{"elliptic curve", []string{"jwe:" + curvePublic}, []string{curvePrivate}},
		{"certificate", []string{"pkcs7:" + certificate}, []string{private, certificate}},
		{"openpgp", []string{"pgp:someone@example.com=" + ringFile}, []string{secretFile}},
		{"one of two", []string{"jwe:" + curvePublic, "jwe:" + public}, []string{private}},
		{"both of two kinds", []string{"jwe:" + curvePublic, "pkcs7:" + certificate}, []string{strange, curvePrivate}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := ReadRecipients(c.recipients)
			if err != nil {
				t.Fatal(err)
			}
			desc, plain := layer()
			sealed, stored, err := r.Encrypt(desc, plain)
			if err != nil {
				t.Fatal(err)
			}
			if !Encrypted(sealed) || sealed.MediaType != desc.MediaType+Suffix || sealed.Digest != digest.FromBytes(stored) ||
				sealed.Size != int64(len(stored)) || sealed.Annotations["other"] != "kept" || bytes.Contains(stored, []byte("bootstrap")) {
				t.Errorf("%+v", sealed)
			}
			if len(desc.Annotations) != 1 {
				t.Errorf("the plain descriptor was changed: %+v", desc)
			}
			got, err := decrypt(sealed, stored, c.keys...)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if _, err := decrypt(sealed, stored, strange); !errors.Is(err, ErrNoKey) {
				t.Errorf("a strange key: %v", err)
			}
			stored[len(stored)/2] ^= 1
			if _, err := decrypt(sealed, stored, c.keys...); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("a changed byte: %v", err)
			}
			if _, err := decrypt(sealed, stored[:100], c.keys...); !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("cut: %v", err)
			}
		})
	}
}

// An error of the source is no damage.
func TestSourceFails(t *testing.T) {
	t.Parallel()
	_, private, public := rsaPair(t)
	r, err := ReadRecipients([]string{"jwe:" + public})
	if err != nil {
		t.Fatal(err)
	}
	sealed, stored, err := r.Encrypt(layer())
	if err != nil {
		t.Fatal(err)
	}
	k, err := ReadKeys([]string{private})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("connection broken")
	plain, err := k.Decrypt(sealed, io.MultiReader(bytes.NewReader(stored[:5000]), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(plain); !errors.Is(err, broken) || errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// A layer that the ocicrypt library encrypted with its own functions.
func TestReference(t *testing.T) {
	t.Parallel()
	var desc ocispec.Descriptor
	text, err := os.ReadFile(filepath.Join("testdata", "descriptor.json"))
	if err == nil {
		err = json.Unmarshal(text, &desc)
	}
	stored, err2 := os.ReadFile(filepath.Join("testdata", "layer"))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	got, err := decrypt(desc, stored, filepath.Join("testdata", "key.pem"))
	if err != nil || string(got) != "what the reference encrypted\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, c := range []struct {
		name, annotation, value string
	}{
		{"no options", annotationPublic, ""},
		{"options that are none", annotationPublic, "!"},
		{"options of another cipher", annotationPublic, "eyJjaXBoZXIiOiJub25lIn0="},
		{"no wrapped key", annotationPrefix + "keys.jwe", "!"},
		{"long", annotationPrefix + "keys.jwe", strings.Repeat("A", maxAnnotation+1)},
	} {
		d := desc
		d.Annotations = map[string]string{}
		for k, v := range desc.Annotations {
			d.Annotations[k] = v
		}
		d.Annotations[c.annotation] = c.value
		if _, err := decrypt(d, stored, filepath.Join("testdata", "key.pem")); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	_, private, public := rsaPair(t)
	text := write(t, "text", []byte("text"))
	for _, names := range [][]string{nil, {public}, {"jwe"}, {"jwe:" + private}, {"jwe:" + text}, {"jwe:/none"}, {"pkcs7:" + public}, {"pgp:" + text}, {"pkcs11:" + public}} {
		if _, err := ReadRecipients(names); err == nil {
			t.Errorf("recipients %q are accepted", names)
		}
	}
	for _, names := range [][]string{nil, {public}, {text}, {"/none"}, {private + ":file=/none"}} {
		if _, err := ReadKeys(names); err == nil {
			t.Errorf("keys %q are accepted", names)
		}
	}
}

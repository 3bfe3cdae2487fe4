package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mysqltest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// convertorCall runs convertor with a work directory of its own and returns its exit code and what it said.
func convertorCall(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var out, log bytes.Buffer
	args = append([]string{"convertor", "--dir", filepath.Join(t.TempDir(), "work")}, args...)
	code := run(t.Context(), args, strings.NewReader(""), &out, &log)
	if out.Len() > 0 {
		t.Errorf("standard output: %s", out.String())
	}
	return code, log.String()
}

func mustConvertor(t *testing.T, args ...string) {
	t.Helper()
	if code, log := convertorCall(t, args...); code != exitDone {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(args, " "), code, log)
	}
}

func newTestRegistry(t *testing.T, o registrytest.Options) *registrytest.Registry {
	t.Helper()
	r, err := registrytest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var quickStore = store.Options{PlainHTTP: true, Retry: fetch.Retry{MaxWait: time.Second}}

func openTestSource(t *testing.T, ref string) store.Source {
	t.Helper()
	r, err := store.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenSource(t.Context(), r, quickStore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// push stores an image in a registry.
func push(t *testing.T, img *imagetest.Image, ref string) {
	t.Helper()
	dir := t.TempDir()
	img.WriteLayout(t, dir, "v1")
	src := openTestSource(t, "oci:"+dir+":v1")
	r, err := store.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := store.OpenTarget(t.Context(), r, quickStore)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Copy(t.Context(), dst, src, img.Desc, store.CopyOptions{})
	if err == nil {
		err = dst.Tag(t.Context(), img.Desc, "")
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		t.Fatal(err)
	}
}

func resolveTest(t *testing.T, ref string) ocispec.Descriptor {
	t.Helper()
	d, err := openTestSource(t, ref).Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func loadTestIndex(t *testing.T, ref string) *store.Index {
	t.Helper()
	x, err := store.LoadIndex(t.Context(), openTestSource(t, ref), resolveTest(t, ref))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// platformImages is an index of two platforms with an attestation.
func platformImages(t *testing.T) (index, amd, arm *imagetest.Image) {
	t.Helper()
	amd = appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	arm = appImage(t, ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	return imagetest.NewIndex(t, amd, arm, imagetest.Attestation(t, amd)), amd, arm
}

func TestConvertorUploadsNothing(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"both":         {"--overlaybd", "a", "--turboOCI", "b"},
		"referrers":    {"--overlaybd", "a", "--turboOCI", "b", "--referrer"},
		"files":        {"--overlaybd", "a", "--turboOCI", "b", "--dump-manifest", "--reserve"},
		"base layer":   {"--overlaybd", "a", "--turboOCI", "b", "--mkfs=false"},
		"the same tag": {"-o", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := newTestRegistry(t, registrytest.Options{NoReferrers: true})
			host := reg.Listen(t)
			img, _, _ := platformImages(t)
			push(t, img, host+"/app:1")
			reg.ResetStats()
			mustConvertor(t, append(flags, "-r", host+"/app", "--plain", "-i", "1", "--no-upload")...)
			s := reg.Stats()
			if s.Requests == 0 || s.Requests != s.ByMethod["GET"]+s.ByMethod["HEAD"] || s.Uploads+s.Mounts+s.OpenPushes != 0 || s.Uploaded != 0 {
				t.Errorf("%+v", s)
			}
			if d := resolveTest(t, host+"/app:1"); d.Digest != img.Desc.Digest {
				t.Error("the source's tag was moved")
			}
		})
	}
}

func TestConvertorReferrer(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]registrytest.Options{"referrers": {}, "no referrers": {NoReferrers: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := newTestRegistry(t, o)
			if o.NoReferrers { // such registries seldom delete
				reg.Inject(registrytest.Fault{Method: "DELETE", Status: 405})
			}
			host := reg.Listen(t)
			index, amd, arm := platformImages(t)
			push(t, index, host+"/app:1")
			mustConvertor(t, "-r", host+"/app", "--plain", "-i", "1", "--overlaybd", "native", "--turboOCI", "turbo", "--referrer")
			native, turbo := loadTestIndex(t, host+"/app:native"), loadTestIndex(t, host+"/app:turbo")
			src := openTestSource(t, host+"/app:1")
			for i, of := range []*imagetest.Image{amd, arm, index} {
				found, err := src.Referrers(t.Context(), of.Desc, "")
				if err != nil || len(found) != 2 {
					t.Fatalf("%d: %v, %v", i, found, err)
				}
				for artifact, made := range map[string]*store.Index{overlaybd.ArtifactType: native, turbooci.ArtifactType: turbo} {
					want := made.Desc
					if i < 2 {
						want = made.Index.Manifests[i]
					}
					if found[0].Digest != want.Digest && found[1].Digest != want.Digest {
						t.Errorf("%d: %s, %s is not among the referrers", i, artifact, want.Digest)
					}
					raw, err := store.ReadAll(t.Context(), src, want, 1<<20)
					subject := fmt.Sprintf(`"subject":{"mediaType":%q,"digest":%q,"size":%d}`, of.Desc.MediaType, of.Desc.Digest, of.Desc.Size)
					if err != nil || !bytes.Contains(raw, []byte(subject)) || !bytes.Contains(raw, []byte(fmt.Sprintf(`"artifactType":%q`, artifact))) {
						t.Errorf("%d: %s, %v, expected %s", i, raw, err, subject)
					}
				}
			}
		})
	}
}

// dockerList is an index with Docker's media type and one attestation, which no such list has in the wild.
func dockerList(t *testing.T) *imagetest.Image {
	t.Helper()
	img, _, _ := platformImages(t)
	img.Desc = img.Add(formats.MediaTypeDockerIndex, bytes.ReplaceAll(img.Objects[img.Desc.Digest], []byte(ocispec.MediaTypeImageIndex), []byte(formats.MediaTypeDockerIndex)))
	return img
}

func TestConvertorMediaTypes(t *testing.T) {
	t.Parallel()
	host := newTestRegistry(t, registrytest.Options{}).Listen(t)
	index, amd, _ := platformImages(t)
	push(t, index, host+"/app:index")
	push(t, dockerList(t), host+"/app:list")
	push(t, imagetest.NewIndex(t, amd), host+"/app:one")
	docker, oci := formats.MediaTypeDockerManifest, ocispec.MediaTypeImageManifest
	for _, c := range []struct {
		source, flag    string
		index, manifest string // media types
		entries         int
	}{
		{"index", "--oci=false", ocispec.MediaTypeImageIndex, docker, 3},
		{"index", "--oci", ocispec.MediaTypeImageIndex, oci, 3},
		{"list", "--oci=false", formats.MediaTypeDockerIndex, docker, 2},
		{"list", "--oci", ocispec.MediaTypeImageIndex, oci, 3},
		{"list", "--referrer", ocispec.MediaTypeImageIndex, oci, 3},
		{"one", "--oci=false", ocispec.MediaTypeImageIndex, docker, 1},
	} {
		tag := c.source + strings.ReplaceAll(c.flag, "=", "-")
		mustConvertor(t, "-r", host+"/app", "--plain", "-i", c.source, "--overlaybd", tag, "--turboOCI", tag+"-turbo", c.flag)
		for _, tag := range []string{tag, tag + "-turbo"} {
			x := loadTestIndex(t, host+"/app:"+tag)
			if x.Desc.MediaType != c.index || len(x.Index.Manifests) != c.entries || x.Index.Manifests[0].MediaType != c.manifest {
				t.Errorf("%s: %s", tag, x.Raw)
			}
		}
	}
}

func TestConvertorPassword(t *testing.T) {
	t.Parallel()
	reg := newTestRegistry(t, registrytest.Options{})
	open := reg.Listen(t)
	push(t, appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"}), open+"/app:1")
	// What one registry has is copied to the other, as its password is asked for.
	closed := newTestRegistry(t, registrytest.Options{Token: true, Username: "somebody", Password: "pass:word"}).Listen(t)
	var log bytes.Buffer
	if code := run(t.Context(), []string{"copy", "-q", "--creds", "somebody:pass:word", open + "/app:1", closed + "/app:1"}, nil, &log, &log); code != exitDone {
		t.Fatal(log.String())
	}
	mustConvertor(t, "-r", closed+"/app", "--plain", "-i", "1", "-o", "2", "-u", "somebody:pass:word")
	for _, user := range []string{"somebody:another", "nobody:pass:word"} {
		code, log := convertorCall(t, "-r", closed+"/app", "--plain", "-i", "1", "-o", "3", "--username", user)
		if code != exitFailed || !strings.Contains(log, "level=error") || !strings.Contains(log, "401") || strings.Contains(log, "another") || strings.Contains(log, "pass:word") {
			t.Errorf("%s: exit code %d\n%s", user, code, log)
		}
	}
}

func writeTestPEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A private authority, a server that asks for client certificates, and every way to have both.
func TestConvertorCertificates(t *testing.T) {
	t.Parallel()
	authorities, clients := t.TempDir(), t.TempDir()
	caKey, ca := newCertificate(t, nil, nil, "authority")
	serverKey, server := newCertificate(t, ca, caKey, "server")
	clientKey, client := newCertificate(t, ca, caKey, "client")
	rawKey, err := x509.MarshalECPrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	caFile, certFile, keyFile := filepath.Join(authorities, "ca.crt"), filepath.Join(clients, "client.cert"), filepath.Join(clients, "client.key")
	writeTestPEM(t, caFile, "CERTIFICATE", ca.Raw)
	writeTestPEM(t, certFile, "CERTIFICATE", client.Raw)
	writeTestPEM(t, keyFile, "EC PRIVATE KEY", rawKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)

	reg := newTestRegistry(t, registrytest.Options{})
	push(t, appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"}), reg.Listen(t)+"/app:1")
	s := httptest.NewUnstartedServer(reg)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	for name, c := range map[string]struct {
		flags []string
		want  int
	}{
		"directories":           {[]string{"--cert-dir", authorities, "--cert-dir", clients}, exitDone},
		"directory and file":    {[]string{"--cert-dir", authorities, "--client-cert", certFile + ":" + keyFile}, exitDone},
		"files":                 {[]string{"--root-ca", caFile, "--root-ca", caFile, "--client-cert", certFile + ":" + keyFile}, exitDone},
		"insecure":              {[]string{"--insecure", "--client-cert", certFile + ":" + keyFile}, exitDone},
		"no client certificate": {[]string{"--root-ca", caFile, "--cert-dir", filepath.Join(clients, "absent")}, exitFailed},
		"no authority":          {[]string{"--cert-dir", clients}, exitFailed},
		"not a certificate":     {[]string{"--root-ca", keyFile}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, log := convertorCall(t, append(c.flags, "-r", host+"/app", "-i", "1", "--overlaybd", "2", "--no-upload")...)
			if code != c.want {
				t.Errorf("exit code %d\n%s", code, log)
			}
		})
	}
}

// newCertificate makes a certificate for the loopback address, signed by an authority or, without one, by itself.
func newCertificate(t *testing.T, authority *x509.Certificate, by *ecdsa.PrivateKey, name string) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: authority == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if authority == nil {
		authority, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, authority, &key.PublicKey, by)
	if err == nil {
		c, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key, c
}

// What is in the database is neither downloaded nor converted again, and can be dumped all the same.
func TestConvertorDatabase(t *testing.T) {
	t.Parallel()
	server := mysqltest.Start(t)
	db := server.DSN(server.Database(t))
	reg := newTestRegistry(t, registrytest.Options{})
	host := reg.Listen(t)
	img := appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	push(t, img, host+"/app:1")
	push(t, img, host+"/other:1")
	dir := t.TempDir()
	for _, c := range []struct {
		repo, tag string
		want      string // what is said of each layer
		uploads   int
	}{
		{"app", "2", "converted (", 3}, // layers and configuration
		{"app", "3", "was converted before", 0},
		{"other", "2", "was converted before", 0}, // mounted
	} {
		reg.ResetStats()
		code, log := convertorCall(t, "-r", host+"/"+c.repo, "--plain", "-i", "1", "-o", c.tag, "--db-type", "mysql", "--db-str", db, "-d", dir, "--dump-manifest")
		if code != exitDone || strings.Count(log, c.want) != 2 {
			t.Fatalf("%s: %d, %s", c.tag, code, log)
		}
		if s := reg.Stats(); s.Uploads != c.uploads {
			t.Errorf("%s:%s: %d blobs were uploaded, %d mounted", c.repo, c.tag, s.Uploads, s.Mounts)
		}
	}
	for _, name := range []string{"manifest.json", "config.json"} {
		if found, err := filepath.Glob(filepath.Join(dir, "1--*", name)); err != nil || len(found) != 1 {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	first, last := resolveTest(t, host+"/app:2"), resolveTest(t, host+"/other:2")
	if first.Digest != last.Digest {
		t.Errorf("%s and %s", first.Digest, last.Digest)
	}
	// Without uploading, nothing is recorded.
	code, log := convertorCall(t, "-r", host+"/app", "--plain", "-i", "1", "-o", "4", "--db-type", "mysql", "--db-str", db, "--no-upload")
	if code != exitDone || !strings.Contains(log, "--db-str has no effect with --no-upload") || strings.Count(log, "converted (") != 2 {
		t.Errorf("%d, %s", code, log)
	}
}

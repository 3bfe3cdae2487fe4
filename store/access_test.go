package store_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

func authFile(t *testing.T, key, user, password string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(name, []byte(`{"auths":{"`+key+`":{"auth":"`+auth+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{Token: true, Username: "u", Password: "p"})
	ref := mustParse(t, reg.host+"/team/image:v1")
	good := authFile(t, reg.host, "u", "p")
	wrong := authFile(t, reg.host, "u", "wrong")
	namespaced := authFile(t, reg.host+"/team", "u", "p")
	broken := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	podman := t.TempDir()
	if err := os.Mkdir(filepath.Join(podman, "containers"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(good, filepath.Join(podman, "containers", "auth.json")); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(good, filepath.Join(home, ".docker", "config.json")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		opts store.Options
		env  map[string]string
		want error // of resolving a tag that is not there
	}{
		{name: "none", want: store.ErrDenied},
		{name: "given", opts: store.Options{Username: "u", Password: "p"}, want: store.ErrNotFound},
		{name: "given before files", opts: store.Options{Username: "u", Password: "x", AuthFile: good}, want: store.ErrDenied},
		{name: "authfile", opts: store.Options{AuthFile: good}, want: store.ErrNotFound},
		{name: "authfile with namespace", opts: store.Options{AuthFile: namespaced}, want: store.ErrNotFound},
		{name: "authfile broken", opts: store.Options{AuthFile: broken}, want: store.ErrDenied},
		{name: "wrong", opts: store.Options{AuthFile: wrong}, want: store.ErrDenied},
		{name: "REGISTRY_AUTH_FILE", env: map[string]string{"REGISTRY_AUTH_FILE": good, "DOCKER_CONFIG": filepath.Dir(wrong)}, want: store.ErrNotFound},
		{name: "podman", env: map[string]string{"XDG_RUNTIME_DIR": podman}, want: store.ErrNotFound},
		{name: "DOCKER_CONFIG", env: map[string]string{"DOCKER_CONFIG": filepath.Dir(good), "HOME": "/nonexistent"}, want: store.ErrNotFound},
		{name: "HOME", env: map[string]string{"HOME": home}, want: store.ErrNotFound},
		{name: "of another registry", opts: store.Options{AuthFile: authFile(t, "example.org", "u", "p")}, want: store.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.opts.Retry = quick
			c.opts.Env = func(k string) string { return c.env[k] }
			src, err := store.OpenSource(t.Context(), ref, c.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			if _, err := src.Resolve(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%v, expected %v", err, c.want)
			}
		})
	}
}

// writePEM writes a block and returns the file's name.
func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := writePEM(t, "CERTIFICATE", der), writePEM(t, "EC PRIVATE KEY", keyDER)
	client := []store.ClientCert{{CertFile: certFile, KeyFile: keyFile}}
	authorities, clients, keyless := t.TempDir(), t.TempDir(), t.TempDir()
	for to, from := range map[string]string{
		filepath.Join(authorities, "ca.crt"): certFile, filepath.Join(authorities, "ca.key"): keyFile, filepath.Join(authorities, "README"): keyFile,
		filepath.Join(clients, "x.cert"): certFile, filepath.Join(clients, "x.key"): keyFile, filepath.Join(keyless, "x.cert"): certFile,
	} {
		if err := os.Link(from, to); err != nil {
			t.Fatal(err)
		}
	}
	template.Subject.CommonName = "nobody knows"
	strange, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := []store.ClientCert{{CertFile: writePEM(t, "CERTIFICATE", strange), KeyFile: keyFile}}
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(certFile); err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate", err)
	}
	reg, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	serve := func(clients tls.ClientAuthType) string {
		s := httptest.NewUnstartedServer(reg)
		s.Config.ErrorLog = nil
		s.TLS = &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: clients, ClientCAs: pool,
		}
		s.StartTLS()
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "https://")
	}
	open, closed := serve(tls.NoClientCert), serve(tls.RequireAndVerifyClientCert)
	for _, c := range []struct {
		name, host string
		opts       store.Options
		want       error
	}{
		{"unknown authority", open, store.Options{}, store.ErrNetwork},
		{"authority", open, store.Options{CAFiles: []string{certFile}}, store.ErrNotFound},
		{"insecure", open, store.Options{Insecure: true}, store.ErrNotFound},
		{"no client certificate", closed, store.Options{CAFiles: []string{certFile}}, store.ErrNetwork},
		{"directory without certificates", open, store.Options{CertDirs: []string{t.TempDir(), "/nonexistent"}}, store.ErrNetwork},
		{"authorities of a directory", open, store.Options{CertDirs: []string{authorities}}, store.ErrNotFound},
		{"directory without client certificate", closed, store.Options{CertDirs: []string{authorities}}, store.ErrNetwork},
		{"directories", closed, store.Options{CertDirs: []string{authorities, clients}}, store.ErrNotFound},
		{"the certificate that is wanted", closed, store.Options{CertDirs: []string{authorities}, Clients: append(stranger, client...)}, store.ErrNotFound},
		{"client certificate", closed, store.Options{CAFiles: []string{certFile}, Clients: client}, store.ErrNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.opts.Retry = quick
			src, err := store.OpenSource(t.Context(), mustParse(t, c.host+"/image:v1"), c.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			if _, err := src.Resolve(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%v, expected %v", err, c.want)
			}
		})
	}
	for _, opts := range []store.Options{
		{CAFiles: []string{keyFile}}, {CAFiles: []string{certFile, "/nonexistent"}}, {Clients: []store.ClientCert{{CertFile: certFile, KeyFile: certFile}}},
		{CertDirs: []string{keyless}}, {CertDirs: []string{certFile}},
	} {
		if _, err := store.OpenSource(t.Context(), mustParse(t, open+"/image:v1"), opts); err == nil {
			t.Errorf("%+v was accepted", opts)
		}
	}
}

func TestOnRequest(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{})
	seen := make(chan store.RequestInfo, 100)
	opts := store.Options{PlainHTTP: true, OnRequest: func(i store.RequestInfo) { seen <- i }}
	dst, err := store.OpenTarget(t.Context(), mustParse(t, reg.host+"/image:v1"), opts)
	if err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte("x"), 1000)
	desc := image(t, dst, nil, p)
	if _, err := store.LoadManifest(t.Context(), dst, desc); err != nil {
		t.Fatal(err)
	}
	close(seen)
	var sum int64
	var puts int
	for i := range seen {
		sum += i.Bytes
		if i.Method == http.MethodPut && i.Status == http.StatusCreated {
			puts++
		}
		if !strings.HasPrefix(i.Path, "/v2/image/") {
			t.Errorf("path %q", i.Path)
		}
	}
	if puts != 3 || sum < desc.Size {
		t.Errorf("%d puts, %d bytes", puts, sum)
	}
}
